/** Fits a snapshot to the tables as they are now: which of them its rows go back to, and what identifies a row in each. */

import { tableAmong } from '../keys/coverage.ts';
import { apiKeysTable, ciphertextColumns } from '../store/encrypted-rows.ts';
import type { MovedTable } from '../store/restore-moves.ts';
import type { Identity } from '../store/restore-pairs.ts';
import type { TableShape } from '../store/snapshot-rows.ts';
import { refusal, type SnapshotHeader } from './format.ts';
import { positionOf } from './rows.ts';
import type { TakeContext } from './take.ts';

/** Throws InvalidSnapshotError if the snapshot holds a table other than these. */
export function assertCovered({ tables }: SnapshotHeader, covered: readonly string[]): void {
  for (const { table } of tables) {
    if (tableAmong(covered, table) !== undefined) continue;
    throw refusal('table_not_covered', `it holds the table ${table}, which VAULT_ENCRYPTED_TABLES does not name`, { table });
  }
}

/** The tables of the snapshot in their present shape. Throws InvalidSnapshotError if the snapshot does not fit them. */
export async function fittingTables(
  { rows, coverage }: Pick<TakeContext, 'rows' | 'coverage'>,
  header: SnapshotHeader,
): Promise<MovedTable[]> {
  const fitting: MovedTable[] = [];
  assertCovered(header, coverage.encryptedTables);
  for (const { table, columns } of header.tables) {
    const earlier = fitting.map((each) => each.table);
    if (tableAmong(earlier, table) !== undefined) {
      throw refusal('malformed', `it holds the table ${table} twice, spelt in two ways`, { table });
    }
    const shape = await rows.findShape(table);
    if (shape === null) throw refusal('table_not_found', `the database has no table ${table}`, { table });
    const unknown = columns.filter((column) => positionOf(shape.columns, column) === -1);
    const needed = [...ciphertextColumns, ...shape.primaryKey];
    const lacking = needed.filter((column) => positionOf(columns, column) === -1);
    if (unknown.length > 0 || lacking.length > 0) {
      const names = [...unknown, ...lacking].join(', ');
      throw refusal('unknown_columns', `its columns of ${table} are not those of the database: ${names}`, { table });
    }
    const [keyColumn = null, ...furtherColumns] = shape.primaryKey;
    const isFoundByKey = furtherColumns.length === 0;
    fitting.push({
      ...shape,
      columnsPutBack: columns,
      keyColumn: isFoundByKey ? keyColumn : null,
      identity: identityIn(shape, columns),
    });
  }
  return fitting;
}

/**
 * The columns that identify a row: the primary key; otherwise those of a unique index; otherwise all that are not ciphertext, or
 * in `api_keys`, where the vault itself changes more than the ciphertext, the id.
 */
function identityIn({ table, primaryKey, uniqueColumns }: TableShape, columns: readonly string[]): Identity {
  if (primaryKey.length > 0) return { columns: primaryKey, isUnique: true };
  const others = columns.filter((column) => positionOf(ciphertextColumns, column) === -1);
  const unique = uniqueColumns.find((names) => names.every((name) => positionOf(others, name) !== -1));
  if (unique !== undefined) return { columns: unique, isUnique: true };
  return { columns: table.toLowerCase() === apiKeysTable ? ['id'] : others, isUnique: false };
}
