/**
 * The two formats of an encrypted row. A format-2 ciphertext opens only for the table, tenant, name and provider that it was
 * sealed for.
 */

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

/** What a format-2 row is bound to, apart from the key id. A null tenant and an empty one differ. */
export interface RowBinding {
  readonly table: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
}

/** The format, by the length of the IV; null if the columns cannot be a ciphertext at all. */
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

/** The plaintext, or null. A format-2 row never opens without a binding. */
export function openRow(key: MasterKey, binding: RowBinding | null, row: RowCiphertext): Buffer | null {
  const sealed = decodeColumns(row);
  if (sealed === null) return null;
  if (formatOf(row) === 1) return open(key.secret, sealed, null);
  return binding === null ? null : open(key.secret, sealed, bindingData(binding, key.id));
}

/** Null if the columns are not hex, or the IV or tag has a length that neither format uses. */
function decodeColumns(row: RowCiphertext): Sealed | null {
  const iv = decodeHex(row.iv);
  const tag = decodeHex(row.authTag);
  const ciphertext = decodeHex(row.encryptedValue);
  if (iv === null || tag === null || ciphertext === null || tag.length !== tagLength) return null;
  return iv.length === ivLengths[1] || iv.length === ivLengths[2] ? { iv, ciphertext, tag } : null;
}

/** Characters of which Node's hex decoder sees only the low byte: U+4E61 would read as `a`. */
const wideCharacter = /[\u0100-\uffff]/;

/** Null unless all of the text is hex: Node's decoder stops at the first other character, and returns fewer bytes. */
function decodeHex(text: string): Buffer | null {
  if (wideCharacter.test(text)) return null;
  const bytes = Buffer.from(text, 'hex');
  return bytes.length * 2 === text.length ? bytes : null;
}

function bindingData(binding: RowBinding, keyId: string): Buffer {
  return associatedData(label, [binding.table, binding.tenantId, binding.name, binding.provider, keyId]);
}
