/** Opens the rows of a snapshot, as the rows of the tables are opened. */

import type { Keyring } from '../crypto/keyring.ts';
import { openCoveredRow, reasonOf } from '../keys/covered-rows.ts';
import { type Cell, nameOfCell, textOfCell } from '../store/cells.ts';
import { apiKeysTable, bindingColumns, ciphertextColumns, type EncryptedRow } from '../store/encrypted-rows.ts';
import { sealingColumns } from '../store/restore-pairs.ts';
import type { TableShape } from '../store/snapshot-rows.ts';

const updatedAt = 'updated_at';

/** The columns that tell whether a row opens, the ciphertext first. */
export function openingColumns(table: string): string[] {
  return [...ciphertextColumns, ...(table === apiKeysTable ? bindingColumns : [])];
}

/** The key id that opens a row, or null where none of the keyring does. */
export function openingKeyId(keyring: Keyring, table: string, columns: readonly string[], cells: readonly Cell[]): string | null {
  const opened = openCoveredRow(keyring, { ciphertext: ciphertextOf(columns, cells), binding: bindingOf(table, columns, cells) });
  opened?.plaintext.fill(0);
  return opened?.key.id ?? null;
}

/** Each null where it is no text. */
export function ivAndTagOf(columns: readonly string[], cells: readonly Cell[]): (string | null)[] {
  return textsOf(columns, cells, sealingColumns);
}

/** Whether its columns can be no ciphertext, under whichever key. */
export function isMalformed(columns: readonly string[], cells: readonly Cell[]): boolean {
  return reasonOf({ ciphertext: ciphertextOf(columns, cells) }) === 'malformed';
}

/** The columns that tell under which key a row is, and when it was last changed: those of them that the table has. */
export function hintColumns({ table, columns }: TableShape): string[] {
  const hints = [...(table === apiKeysTable ? ['key_id', 'key_id_tag'] : []), updatedAt];
  return hints.filter((column) => positionOf(columns, column) !== -1);
}

/** When a program has last changed the row, in Unix seconds; NaN, which is no later and no earlier than any time, where no number says so. */
export function updatedAtOf(columns: readonly string[], cells: readonly Cell[]): number {
  const cell = cells[positionOf(columns, updatedAt)];
  if (typeof cell !== 'object' || cell === null) return Number.NaN;
  if ('integer' in cell) return Number(cell.integer);
  return 'real' in cell ? Number(cell.real) : Number.NaN;
}

/** The key id that the row names, or null where it names none, or names that of a ciphertext which has been replaced since. */
export function keyIdHintOf(columns: readonly string[], cells: readonly Cell[]): string | null {
  const [keyId = null, keyIdTag, authTag] = textsOf(columns, cells, ['key_id', 'key_id_tag', 'auth_tag']);
  return keyIdTag === authTag ? keyId : null;
}

/** What operators name a row by: see {@link EncryptedRow.id}. */
export function nameOfRow(columns: readonly string[], rowId: string, cells: readonly Cell[]): string {
  return nameOfCell(cells[positionOf(columns, 'id')]) ?? `rowid:${rowId}`;
}

/** -1 where it is none of them. To SQLite the names of columns are the same in any case. */
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

/** Each null where it is no text. */
function textsOf(columns: readonly string[], cells: readonly Cell[], wanted: readonly string[]): (string | null)[] {
  return wanted.map((column) => textOfCell(cells[positionOf(columns, column)]));
}
