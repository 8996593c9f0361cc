/** The statements that move staged rows into a table, matched by its single primary-key column or through the pairs. */

import { decodeCell } from './cells.ts';
import { apiKeysTable, ciphertextColumns } from './encrypted-rows.ts';
import { quote } from './encrypted-tables.ts';
import type { Statement } from './guards.ts';
import { hasIdentity, type Identity } from './restore-pairs.ts';
import type { TableShape } from './snapshot-rows.ts';

/** A table in its present shape, and what identifies its rows. */
export interface MovedTable extends TableShape {
  /** The columns of the table that the snapshot holds. */
  readonly columnsPutBack: readonly string[];
  /** The single column of its primary key; null if there is none or several, and its rows are matched by pairing. */
  readonly keyColumn: string | null;
  readonly identity: Identity;
}

/** No covered table has such a name. */
const stagedRows = 'vault_restore_rows AS vault_staged';
const pairedRows = `${stagedRows} JOIN vault_restore_identities AS vault_paired ON vault_paired.restore_id = vault_staged.restore_id
  AND vault_paired.table_name = vault_staged.table_name AND vault_paired.row_id = vault_staged.row_id`;
const ofRestore = 'vault_staged.restore_id = ? AND vault_staged.table_name = ?';

const isRowIdTaken = (table: string): string => `EXISTS (SELECT 1 FROM ${table} AS t WHERE t.rowid = vault_staged.row_id)`;

export function mergeStatements(id: string, moved: MovedTable, takenAt: number): Statement[] {
  const { table, keyColumn, columnsPutBack } = moved;
  const isCurrent = table.toLowerCase() === apiKeysTable ? `NOT ${isOutdatedKey(columnsPutBack, takenAt)}` : 'true';
  const sqls =
    keyColumn === null
      ? [mergePairedSql(moved), insertPairedSql(moved, `vault_staged.present_row_id IS NULL AND ${isCurrent}`)]
      : mergeByKeySqls(moved, keyColumn, isCurrent);
  return sqls.map((sql) => ({ sql, args: [id, table] }));
}

function mergePairedSql({ table, identity, columnsPutBack }: MovedTable): string {
  const name = quote(table);
  return `UPDATE ${name} SET ${columnsOf(columnsPutBack).assignments} FROM ${pairedRows}
    WHERE ${ofRestore} AND ${name}.rowid = vault_staged.present_row_id AND ${hasIdentity(name, identity, 'vault_paired')} AND ${isAsRead(name)}`;
}

function mergeByKeySqls({ table, columnsPutBack }: MovedTable, keyColumn: string, isCurrent: string): string[] {
  const name = quote(table);
  const key = quote(keyColumn);
  const missing = `FROM ${stagedRows} WHERE ${ofRestore} AND vault_staged.present_row_id IS NULL
    AND NOT EXISTS (SELECT 1 FROM ${name} AS t WHERE t.${key} = vault_staged.match_key)
    AND NOT (vault_staged.match_key IS NULL AND EXISTS (SELECT 1 FROM ${name} AS t WHERE t.rowid = vault_staged.row_id AND t.${key} IS NULL))
    AND ${isCurrent}`;
  const { list, values, assignments } = columnsOf(columnsPutBack);
  return [
    `UPDATE ${name} SET ${assignments} FROM ${stagedRows}
     WHERE ${ofRestore} AND ${name}.rowid = vault_staged.present_row_id AND ${name}.${key} IS vault_staged.match_key AND ${isAsRead(name)}`,
    `INSERT INTO ${name} (rowid, ${list}) SELECT vault_staged.row_id, ${values} ${missing} AND NOT ${isRowIdTaken(name)}`,
    // Rows whose row id another row has taken meanwhile get a new one.
    `INSERT INTO ${name} (${list}) SELECT ${values} ${missing}`,
  ];
}

function isAsRead(name: string): string {
  return ciphertextColumns
    .map((column, index) => `${name}.${column} IS ${decodeCell('vault_staged.present_cells', index)}`)
    .join(' AND ');
}

/**
 * An SQL condition: another value has been stored under the tenant and name of a staged row of `api_keys` since `takenAt`, for
 * example after the row was deleted. Or the staged row would displace the row that now counts: of several rows with the same
 * times the one with the greatest row id counts, and a staged row that has lost its row id gets a greater one.
 */
function isOutdatedKey(columns: readonly string[], takenAt: number): string {
  const positions = new Map(columns.map((column, index) => [column.toLowerCase(), index]));
  const cellOf = (column: string): string => decodeCell('vault_staged.cells', positions.get(column) ?? columns.length);
  const times = `(${cellOf('updated_at')}, ${cellOf('created_at')})`;
  return `EXISTS (SELECT 1 FROM ${apiKeysTable} AS n WHERE n.tenant_id IS ${cellOf('tenant_id')} AND n.name IS ${cellOf('name')}
    AND (n.updated_at >= ${takenAt} OR ((n.updated_at, n.created_at) = ${times} AND n.rowid > vault_staged.row_id AND ${isRowIdTaken(apiKeysTable)})))`;
}

/**
 * Rows that stay are updated in place, whatever row ids they have by now: deleting them could cascade to other programs' rows that
 * refer to them.
 */
export function deleteOthersStatement(id: string, { table, keyColumn }: MovedTable): Statement {
  const name = quote(table);
  if (keyColumn === null) {
    const staying = `SELECT present_row_id FROM vault_restore_identities
      WHERE restore_id = ? AND table_name = ? AND present_row_id IS NOT NULL`;
    return { sql: `DELETE FROM ${name} WHERE ${name}.rowid NOT IN (${staying})`, args: [id, table] };
  }
  const key = `${name}.${quote(keyColumn)}`;
  const staged = `SELECT 1 FROM ${stagedRows} WHERE ${ofRestore}`;
  // The plus keeps SQLite from using the index of the keys, where it would visit every null one.
  const isStaying = `iif(${key} IS NULL,
    EXISTS (${staged} AND vault_staged.row_id = ${name}.rowid AND +vault_staged.match_key IS NULL),
    EXISTS (${staged} AND ${isOfKey(key)}))`;
  return { sql: `DELETE FROM ${name} WHERE NOT ${isStaying}`, args: [id, table, id, table] };
}

/**
 * Whether a staged row has exactly this key: of the same type and byte for byte, whatever the column's collation calls equal. The
 * plus removes the column's affinity, which would keep SQLite from using the index of the staged keys.
 */
function isOfKey(key: string): string {
  return `vault_staged.match_key = +${key} COLLATE BINARY`;
}

export function replaceStatements(id: string, moved: MovedTable): Statement[] {
  const { table, keyColumn, columnsPutBack } = moved;
  const name = quote(table);
  const moves =
    keyColumn === null
      ? [
          `UPDATE ${name} SET ${columnsOf(columnsPutBack).assignments} FROM ${pairedRows}
           WHERE ${ofRestore} AND ${name}.rowid = vault_paired.present_row_id`,
          insertPairedSql(moved, 'true'),
        ]
      : replaceByKeySqls(moved, keyColumn);
  return moves.map((sql) => ({ sql, args: [id, table] }));
}

/** Rows are matched by their key, and those whose key is null by their row id. */
function replaceByKeySqls(moved: MovedTable, keyColumn: string): string[] {
  const name = quote(moved.table);
  const key = quote(keyColumn);
  const update = `UPDATE ${name} SET ${columnsOf(moved.columnsPutBack).assignments} FROM ${stagedRows} WHERE ${ofRestore}`;
  const present = `SELECT 1 FROM ${name} AS t WHERE`;
  return [
    `${update} AND ${name}.${key} = vault_staged.match_key AND ${isOfKey(`${name}.${key}`)}`,
    `${update} AND vault_staged.match_key IS NULL AND ${name}.rowid = vault_staged.row_id AND ${name}.${key} IS NULL`,
    insertSql(
      moved,
      stagedRows,
      `NOT iif(vault_staged.match_key IS NULL,
        EXISTS (${present} t.rowid = vault_staged.row_id AND t.${key} IS NULL),
        EXISTS (${present} t.${key} = vault_staged.match_key AND ${isOfKey(`t.${key}`)}))`,
    ),
  ];
}

/**
 * Of several rows of one tenant and name with equal times, the one with the greatest row id counts. If rows that stayed under row
 * ids other than the snapshot's are in another order than there, all rows of that group get new row ids above every other, in the
 * snapshot's order.
 */
export function orderStatements(id: string, { table, keyColumn }: MovedTable): Statement[] {
  if (keyColumn === null || table.toLowerCase() !== apiKeysTable) return [];
  const name = quote(table);
  const columns = ['tenant_id', 'name', 'updated_at', 'created_at'];
  const groups = `SELECT min(rowid) AS first_row_id, ${columns} FROM ${name} GROUP BY ${columns} HAVING count(*) > 1`;
  const placeBy = (rowId: string): string => `row_number() OVER (PARTITION BY g.first_row_id ORDER BY ${rowId})`;
  const sql = `WITH tied AS MATERIALIZED (
      SELECT g.first_row_id, t.rowid AS row_id, vault_staged.row_id AS taken_row_id,
        ${placeBy('t.rowid')} AS place, ${placeBy('vault_staged.row_id')} AS taken_place
      FROM (${groups}) AS g CROSS JOIN ${name} AS t ON ${columns.map((column) => `t.${column} IS g.${column}`).join(' AND ')}
      CROSS JOIN ${stagedRows} ON ${ofRestore} AND ${isOfKey(`t.${quote(keyColumn)}`)})
    UPDATE ${name} SET rowid = ordered.row_id FROM (
      SELECT row_id AS present_row_id, (SELECT max(rowid) FROM ${name}) + row_number() OVER (ORDER BY taken_row_id) AS row_id
      FROM tied WHERE first_row_id IN (SELECT first_row_id FROM tied WHERE place <> taken_place)) AS ordered
    WHERE ${name}.rowid = ordered.present_row_id`;
  return [{ sql, args: [id, table] }];
}

/** Inserts the staged rows that have no pair. */
function insertPairedSql(moved: MovedTable, condition: string): string {
  return insertSql(moved, pairedRows, `vault_paired.present_row_id IS NULL AND ${condition}`);
}

/**
 * Inserts staged rows, those that keep their own row ids first: the ids assigned to the others, whose own are taken, are then above
 * all of these.
 */
function insertSql({ table, columnsPutBack }: MovedTable, rows: string, condition: string): string {
  const name = quote(table);
  const { list, values } = columnsOf(columnsPutBack);
  return `INSERT INTO ${name} (rowid, ${list}) SELECT iif(${isRowIdTaken(name)}, NULL, vault_staged.row_id), ${values} FROM ${rows}
    WHERE ${ofRestore} AND ${condition} ORDER BY ${isRowIdTaken(name)}`;
}

function columnsOf(columns: readonly string[]): { list: string; values: string; assignments: string } {
  const values = columns.map((_column, index) => decodeCell('vault_staged.cells', index));
  return {
    list: columns.map(quote).join(', '),
    values: values.join(', '),
    assignments: columns.map((column, index) => `${quote(column)} = ${values[index]}`).join(', '),
  };
}
