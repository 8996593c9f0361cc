/** The two formats of an encrypted row. A format-2 ciphertext opens only in the table, tenant, name and provider that it was sealed for. */

import { randomBytes } from 'node:crypto';
import { open, type Sealed, seal, tagLength } from './aead.ts';
import { associatedData } from './associated-data.ts';
import type { MasterKey } from './master-key.ts';

const label = 'provara-vault/row/2';
const ivLengths = { 1: 16, 2: 12 } as const;
const hex = /^(?:[0-9a-fA-F]{2})*$/;

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
  if (row.authTag.length !== tagLength * 2 || !hex.test(row.authTag)) return null;
  if (!hex.test(row.iv) || !hex.test(row.encryptedValue)) return null;
  if (row.iv.length === ivLengths[1] * 2) return 1;
  return row.iv.length === ivLengths[2] * 2 ? 2 : null;
}

/** Seals in format 1 (as the gateway writes) where `binding` is null, otherwise in format 2. */
export function sealRow(key: MasterKey, binding: RowBinding | null, plaintext: Buffer): RowCiphertext {
  const iv = randomBytes(ivLengths[binding === null ? 1 : 2]);
  const sealed = seal(key.secret, iv, plaintext, binding === null ? null : bindingData(binding, key.id));
  return {
    encryptedValue: sealed.ciphertext.toString('hex'),
    iv: iv.toString('hex'),
    authTag: sealed.tag.toString('hex'),
  };
}

/** The plaintext, or null. A row in format 2 without a binding never opens. */
export function openRow(key: MasterKey, binding: RowBinding | null, row: RowCiphertext): Buffer | null {
  const format = rowFormatOf(row);
  if (format === null) return null;
  if (format === 1) return open(key.secret, decodeColumns(row), null);
  return binding === null ? null : open(key.secret, decodeColumns(row), bindingData(binding, key.id));
}

function decodeColumns(row: RowCiphertext): Sealed {
  return {
    iv: Buffer.from(row.iv, 'hex'),
    ciphertext: Buffer.from(row.encryptedValue, 'hex'),
    tag: Buffer.from(row.authTag, 'hex'),
  };
}

function bindingData(binding: RowBinding, keyId: string): Buffer {
  return associatedData(label, [binding.table, binding.tenantId, binding.name, binding.provider, keyId]);
}
