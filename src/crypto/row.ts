/** The two formats of an encrypted row. A format-2 ciphertext opens only in the table, tenant, name and provider that it was sealed for. */

import { associatedData, freshIv, open, type Sealed, seal, tagLength } from './aead.ts';
import type { MasterKey } from './master-key.ts';

const label = 'provara-vault/row/2';
const ivLengths = { 1: 16, 2: 12 } as const;

export type RowFormat = 1 | 2;

/** The three columns, in hex. */
export interface RowCiphertext {
  readonly encryptedValue: string;
  readonly iv: string;
  readonly authTag: string;
}

/** What a format-2 row is bound to, beside the key id. A null tenant and an empty one differ. */
export interface RowBinding {
  readonly table: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
}

/** The format that the IV's length tells, or null where the columns cannot be a ciphertext at all. */
export function rowFormatOf(row: RowCiphertext): RowFormat | null {
  return decodeColumns(row) === null ? null : formatOf(row);
}

/** The format of a row whose columns are known to be a ciphertext. */
export function formatOf({ iv }: RowCiphertext): RowFormat {
  return iv.length === 2 * ivLengths[1] ? 1 : 2;
}

/** Seals in format 1 (as the gateway writes) where `binding` is null, otherwise in format 2. */
export function sealRow(key: MasterKey, binding: RowBinding | null, plaintext: Buffer): RowCiphertext {
  const iv = freshIv(ivLengths[binding === null ? 1 : 2]);
  const sealed = seal(key.secret, iv, plaintext, binding === null ? null : bindingData(binding, key.id));
  return {
    encryptedValue: sealed.ciphertext.toString('hex'),
    iv: iv.toString('hex'),
    authTag: sealed.tag.toString('hex'),
  };
}

/** The plaintext, or null. A row in format 2 without a binding never opens. */
export function openRow(key: MasterKey, binding: RowBinding | null, row: RowCiphertext): Buffer | null {
  const sealed = decodeColumns(row);
  if (sealed === null) return null;
  if (formatOf(row) === 1) return open(key.secret, sealed, null);
  return binding === null ? null : open(key.secret, sealed, bindingData(binding, key.id));
}

/** Null where the columns are not hex, or the IV or the tag has another length than those of the formats. */
function decodeColumns(row: RowCiphertext): Sealed | null {
  const iv = decodeHex(row.iv);
  const tag = decodeHex(row.authTag);
  const ciphertext = decodeHex(row.encryptedValue);
  if (iv === null || tag === null || ciphertext === null || tag.length !== tagLength) return null;
  return iv.length === ivLengths[1] || iv.length === ivLengths[2] ? { iv, ciphertext, tag } : null;
}

/** Of which Node's decoder sees the low byte alone: U+4E61 would be an `a`. */
const wideCharacter = /[\u0100-\uffff]/;

/** Node stops at what is no hex: then fewer bytes come out. */
function decodeHex(text: string): Buffer | null {
  if (wideCharacter.test(text)) return null;
  const bytes = Buffer.from(text, 'hex');
  return bytes.length * 2 === text.length ? bytes : null;
}

function bindingData(binding: RowBinding, keyId: string): Buffer {
  return associatedData(label, [binding.table, binding.tenantId, binding.name, binding.provider, keyId]);
}
