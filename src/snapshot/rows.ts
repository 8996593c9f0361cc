/** Opens the rows of a snapshot in the same way as the rows of the tables. */

import type { Keyring } from '../crypto/keyring.ts';
import { openCoveredRow, reasonOf } from '../keys/covered-rows.ts';
import { type Cell, nameOfCell, textOfCell } from '../store/cells.ts';
import { apiKeysTable, bindingColumns, ciphertextColumns, type EncryptedRow } from '../store/encrypted-rows.ts';
import { sealingColumns } from '../store/restore-pairs.ts';
import type { TableShape } from '../store/snapshot-rows.ts';

/** A row of a table or of a snapshot: all of its columns, or those that were asked for, and their cells in the same order. */
export interface CellRow {
  readonly table: string;
  readonly columns: readonly string[];
  readonly cells: readonly Cell[];
}

const updatedAt = 'updated_at';

/** The columns that decide whether a row opens, the ciphertext first. */
export function openingColumns(table: string): string[] {
  return [...ciphertextColumns, ...(table === apiKeysTable ? bindingColumns : [])];
}

/** The id of the key that opens a row, or null if no key of the keyring does. */
export function openingKeyId(keyring: Keyring, row: CellRow): string | null {
  const opened = openCoveredRow(keyring, { ciphertext: ciphertextOf(row), binding: bindingOf(row) });
  opened?.plaintext.fill(0);
  return opened?.key.id ?? null;
}

/** Each null if it is not text. */
export function ivAndTagOf(row: CellRow): (string | null)[] {
  return textsOf(row, sealingColumns);
}

/** Whether the columns cannot be a ciphertext under any key. */
export function isMalformed(row: CellRow): boolean {
  return reasonOf({ ciphertext: ciphertextOf(row) }) === 'malformed';
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
export function updatedAtOf(row: CellRow): number {
  const cell = cellOf(row, updatedAt);
  if (typeof cell !== 'object' || cell === null) return Number.NaN;
  if ('integer' in cell) return Number(cell.integer);
  return 'real' in cell ? Number(cell.real) : Number.NaN;
}

/** The key id that the row names; null if it names none, or if the ciphertext has been replaced since. */
export function keyIdHintOf(row: CellRow): string | null {
  const [keyId = null, keyIdTag, authTag] = textsOf(row, ['key_id', 'key_id_tag', 'auth_tag']);
  return keyIdTag === authTag ? keyId : null;
}

/** The name of a row for operators: see {@link EncryptedRow.id}. */
export function nameOfRow(row: CellRow, rowId: string): string {
  return nameOfCell(cellOf(row, 'id')) ?? `rowid:${rowId}`;
}

/** Null if there is no such column. */
export function cellOf({ columns, cells }: CellRow, column: string): Cell {
  return cells[positionOf(columns, column)] ?? null;
}

/** -1 if there is no such column. SQLite ignores the case of column names. */
export function positionOf(columns: readonly string[], column: string): number {
  return columns.findIndex((name) => name.toLowerCase() === column.toLowerCase());
}

function ciphertextOf(row: CellRow): EncryptedRow['ciphertext'] {
  const [encryptedValue = null, iv = null, authTag = null] = textsOf(row, ciphertextColumns);
  return encryptedValue === null || iv === null || authTag === null ? null : { encryptedValue, iv, authTag };
}

function bindingOf(row: CellRow): EncryptedRow['binding'] {
  const [tenantId = null, name = null, provider = null] = textsOf(row, bindingColumns);
  const isTenantDamaged = tenantId === null && cellOf(row, 'tenant_id') !== null;
  return row.table !== apiKeysTable || isTenantDamaged || name === null || provider === null
    ? null
    : { table: row.table, tenantId, name, provider };
}

/** Each null if it is not text. */
function textsOf(row: CellRow, wanted: readonly string[]): (string | null)[] {
  return wanted.map((column) => textOfCell(cellOf(row, column)));
}
