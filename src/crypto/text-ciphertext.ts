/**
 * The text form `pv1.<key id>.<base64url(iv‖ciphertext‖tag)>` of a ciphertext that the caller keeps; it can never be mistaken for
 * a row.
 */

import { associatedData, freshIv, open, seal, tagLength } from './aead.ts';
import type { MasterKey } from './master-key.ts';

const label = 'provara-vault/pv1';
const ivLength = 12;
const prefix = /^pv1\.[0-9a-f]{16}\./;
const keyIdStart = 'pv1.'.length;
const payloadStart = 'pv1.0123456789abcdef.'.length;
const withoutContext = associatedData(label, [null]);

export interface TextCiphertext {
  readonly keyId: string;
  /** iv‖ciphertext‖tag */
  readonly payload: Buffer;
}

/** Parses strictly: null for anything that {@link sealText} could not have written, including other base64url spellings. */
export function parseText(text: string): TextCiphertext | null {
  if (!prefix.test(text)) return null;
  const encoded = text.slice(payloadStart);
  const payload = Buffer.from(encoded, 'base64url');
  if (payload.length < ivLength + tagLength || payload.toString('base64url') !== encoded) return null;
  return { keyId: text.slice(keyIdStart, payloadStart - 1), payload };
}

/** Seals under a fresh IV. The same `context` is needed to open; null and the empty string differ. */
export function sealText(key: MasterKey, plaintext: Buffer, context: string | null): string {
  const sealed = seal(key.secret, freshIv(ivLength), plaintext, boundTo(context));
  const payload = Buffer.concat([sealed.iv, sealed.ciphertext, sealed.tag]);
  return `pv1.${key.id}.${payload.toString('base64url')}`;
}

/** The plaintext, or null. The caller chooses the key by `keyId`. */
export function openText(key: MasterKey, { payload }: TextCiphertext, context: string | null): Buffer | null {
  const sealed = {
    iv: payload.subarray(0, ivLength),
    ciphertext: payload.subarray(ivLength, -tagLength),
    tag: payload.subarray(-tagLength),
  };
  return open(key.secret, sealed, boundTo(context));
}

function boundTo(context: string | null): Buffer {
  return context === null ? withoutContext : associatedData(label, [context]);
}
