/** AES-256-GCM with a 16-byte tag and nothing else: a shorter tag, a changed bit or another key all look the same to the caller. */

import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto';

const algorithm = 'aes-256-gcm';
/** NIST SP 800-38D allows shorter tags and Node accepts them unless this is passed. */
export const tagLength = 16;

export interface Sealed {
  readonly iv: Buffer;
  readonly ciphertext: Buffer;
  readonly tag: Buffer;
}

/** Encrypts under an IV that the caller has never used with this key. */
export function seal(key: KeyObject, iv: Buffer, plaintext: Buffer, associatedData: Buffer | null): Sealed {
  const cipher = createCipheriv(algorithm, key, iv, { authTagLength: tagLength });
  if (associatedData !== null) cipher.setAAD(associatedData);
  const ciphertext = cipher.update(plaintext);
  // GCM holds nothing back: this adds no bytes, and makes the tag.
  cipher.final();
  return { iv, ciphertext, tag: cipher.getAuthTag() };
}

/** The plaintext, or null whatever the reason that it does not open. */
export function open(key: KeyObject, sealed: Sealed, associatedData: Buffer | null): Buffer | null {
  if (sealed.tag.length !== tagLength || sealed.iv.length === 0) return null;
  const decipher = createDecipheriv(algorithm, key, sealed.iv, { authTagLength: tagLength });
  decipher.setAuthTag(sealed.tag);
  if (associatedData !== null) decipher.setAAD(associatedData);
  const plaintext = decipher.update(sealed.ciphertext);
  try {
    decipher.final();
    return plaintext;
  } catch {
    plaintext.fill(0);
    return null;
  }
}
