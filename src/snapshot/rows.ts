/** Opens the rows of a snapshot in the same way as the rows of the tables. */

import type { Keyring } from '../crypto/keyring.ts';
import { openCoveredRow, reasonOf } from '../keys/covered-rows.ts';
import { type Cell, nameOfCell, textOfCell } from '../store/cells.ts';
import { apiKeysTable, bindingColumns, ciphertextColumns, type EncryptedRow } from '../store/encrypted-rows.ts';
import { sealingColumns } from '../store/restore-pairs.ts';
import type { TableShape } from '../store/snapshot-rows.ts';

const updatedAt = 'updated_at';

/** The columns that decide whether a row opens, the ciphertext first. */
export function openingColumns(table: string): string[] {
  return [...ciphertextColumns, ...(table === apiKeysTable ? bindingColumns : [])];
}

/** The id of the key that opens a row, or null if no key of the keyring does. */
export function openingKeyId(keyring: Keyring, table: string, columns: readonly string[], cells: readonly Cell[]): string | null {
  const opened = openCoveredRow(keyring, { ciphertext: ciphertextOf(columns, cells), binding: bindingOf(table, columns, cells) });
  opened?.plaintext.fill(0);
  return opened?.key.id ?? null;
}

/** Each null if it is not text. */
export function ivAndTagOf(columns: readonly string[], cells: readonly Cell[]): (string | null)[] {
  return textsOf(columns, cells, sealingColumns);
}

/** Whether the columns cannot be a ciphertext under any key. */
export function isMalformed(columns: readonly string[], cells: readonly Cell[]): boolean {
  return reasonOf({ ciphertext: ciphertextOf(columns, cells) }) === 'malformed';
}

/** The columns that indicate a row's key and when it was last changed, as far as the table has them. */
export function hintColumns({ table, columns }: TableShape): string[] {
  const hints = [...(table === apiKeysTable ? ['key_id', 'key_id_tag'] : []), updatedAt];
  return hints.filter((column) => positionOf(columns, column) !== -1);
}

/**
 * When a program last changed the row, in Unix seconds; NaN, which compares neither later nor earlier than any time, if the
 * column holds no number.
 */
export function updatedAtOf(columns: readonly string[], cells: readonly Cell[]): number {
  const cell = cells[positionOf(columns, updatedAt)];
  if (typeof cell !== 'object' || cell === null) return Number.NaN;
  if ('integer' in cell) return Number(cell.integer);
  return 'real' in cell ? Number(cell.real) : Number.NaN;
}

/** The key id that the row names; null if it names none, or if the ciphertext has been replaced since. */
export function keyIdHintOf(columns: readonly string[], cells: readonly Cell[]): string | null {
  const [keyId = null, keyIdTag, authTag] = textsOf(columns, cells, ['key_id', 'key_id_tag', 'auth_tag']);
  return keyIdTag === authTag ? keyId : null;
}

/** The name of a row for operators: see {@link EncryptedRow.id}. */
export function nameOfRow(columns: readonly string[], rowId: string, cells: readonly Cell[]): string {
  return nameOfCell(cells[positionOf(columns, 'id')]) ?? `rowid:${rowId}`;
}

/** -1 if there is no such column. SQLite ignores the case of column names. */
export function positionOf(columns: readonly string[], column: string): number {
  return columns.findIndex((name) => name.toLowerCase() === column.toLowerCase());
}

function ciphertextOf(columns: readonly string[], cells: readonly Cell[]): EncryptedRow['ciphertext'] {
  const [encryptedValue = null, iv = null, authTag = null] = textsOf(columns, cells, ciphertextColumns);
  return encryptedValue === null || iv === null || authTag === null ? null : { encryptedValue, iv, authTag };
}

function bindingOf(table: string, columns: readonly string[], cells: readonly Cell[]): EncryptedRow['binding'] {
  const [tenantId = null, name = null, provider = null] = textsOf(columns, cells, bindingColumns);
  const isTenantDamaged = tenantId === null && (cells[positionOf(columns, 'tenant_id')] ?? null) !== null;
  return table !== apiKeysTable || isTenantDamaged || name === null || provider === null
    ? null
    : { table, tenantId, name, provider };
}

/** Each null if it is not text. */
function textsOf(columns: readonly string[], cells: readonly Cell[], wanted: readonly string[]): (string | null)[] {
  return wanted.map((column) => textOfCell(cells[positionOf(columns, column)]));
}
