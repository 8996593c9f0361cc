/**
 * Puts rows back in one transaction, however many: they are staged in tables of the vault's own first, and moved by SQL, each
 * only over what was read before.
 */

import { decodeCell, encodeCells } from './cells.ts';
import { integer, text } from './connection.ts';
import type { Database } from './database.ts';
import { apiKeysTable, ciphertextColumns } from './encrypted-rows.ts';
import { quote } from './encrypted-tables.ts';
import { guard, type Statement } from './guards.ts';
import type { TableShape } from './snapshot-rows.ts';

/** Seconds after which what a restore has staged counts as left behind by a process that has gone. */
const forgottenSeconds = 3_600;
/** How much longer the move may take on a server for each row, and at least. */
const workPerRowMs = 0.5;
const minWorkMs = 20_000;

/** A row that is in the table now. */
export interface PresentRow {
  readonly rowId: string;
  /** JSON of the cells that were asked for. */
  readonly cells: string;
}

export interface StagedRow {
  readonly rowId: string;
  /** JSON of the cell of the primary key; `null` where there is none. */
  readonly matchCell: string;
  readonly cells: string;
  /** The row that it is to replace, with the cells of {@link ciphertextColumns} as they were read; null where it is missing. */
  readonly present: PresentRow | null;
}

/** A table in its present shape; `columnsPutBack` are the columns that the snapshot has of it. */
export interface MovedTable extends TableShape {
  readonly columnsPutBack: readonly string[];
}

/** The guard that fails once the tables are not what was read of them. */
export const presentGuard = 'restore_present';
/** The guard that fails where something of what was staged has gone. */
const stagedGuard = 'restore_staged';

export class RestoreStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async begin(id: string): Promise<void> {
    await this.#database.write([{ sql: 'INSERT INTO vault_restores (id, started_at) VALUES (?, unixepoch())', args: [id] }]);
  }

  /** Deletes what restores have staged that ended without a word. */
  async forgetStale(): Promise<void> {
    const rows = await this.#database.read(`SELECT id FROM vault_restores WHERE started_at < unixepoch() - ${forgottenSeconds}`);
    for (const row of rows) await this.forget(text(row, 'id'));
  }

  async forget(id: string): Promise<void> {
    await this.#database.write(forgetStatements(id), minWorkMs);
  }

  /** Of rows of one primary key the last counts: one that was written anew while it was read has been read twice. */
  async stage(id: string, table: string, rows: readonly StagedRow[]): Promise<void> {
    const staged = JSON.stringify(rows.map(({ rowId, matchCell, cells }) => [rowId, [JSON.parse(matchCell)], JSON.parse(cells)]));
    const present = JSON.stringify(
      rows.flatMap((row, index) => (row.present === null ? [] : [[index, row.present.rowId, JSON.parse(row.present.cells)]])),
    );
    const sql = `INSERT OR REPLACE INTO vault_restore_rows (restore_id, table_name, row_id, match_key, cells, present_row_id, present_cells)
      SELECT ?, ?, CAST(r.value->>0 AS integer), ${decodeCell('(r.value->1)', 0)}, r.value->2, CAST(p.value->>1 AS integer), p.value->2
      FROM json_each(?) AS r LEFT JOIN json_each(?) AS p ON p.value->>0 = r.key`;
    await this.#database.write([{ sql, args: [id, table, staged, present] }]);
  }

  /** Notes what the table held when it was read, for {@link replaceAll} to insist on. */
  async stagePresent(id: string, table: string, rows: readonly PresentRow[]): Promise<void> {
    const sql = `INSERT OR REPLACE INTO vault_restore_present (restore_id, table_name, row_id, cells)
      SELECT ?, ?, CAST(value->>0 AS integer), value->1 FROM json_each(?)`;
    const json = JSON.stringify(rows.map(({ rowId, cells }) => [rowId, JSON.parse(cells)]));
    await this.#database.write([{ sql, args: [id, table, json] }]);
  }

  async forgetPresent(id: string): Promise<void> {
    await this.#database.write([{ sql: 'DELETE FROM vault_restore_present WHERE restore_id = ?', args: [id] }], minWorkMs);
  }

  /**
   * The rows of the table that are those asked for: by primary key, or by row id where there is none. Each key is the JSON of
   * `[cell, rowid]`; the answer is by the position of the key.
   */
  async present({ table, primaryKey }: TableShape, keys: readonly string[], columns: readonly string[]) {
    const cell = decodeCell("(r.value->'$')", 0);
    const byRowId = 't.rowid = CAST(r.value->>1 AS integer)';
    const match =
      primaryKey === null
        ? byRowId
        : `(t.${quote(primaryKey)} = ${cell} OR (${cell} IS NULL AND t.${quote(primaryKey)} IS NULL AND ${byRowId}))`;
    const sql = `SELECT r.key AS position, CAST(t.rowid AS text) AS row_id, ${encodeCells(columns.map((column) => `t.${quote(column)}`))} AS cells
      FROM json_each(?) AS r CROSS JOIN ${quote(table)} AS t ON ${match}`;
    const rows = await this.#database.read(sql, [`[${keys.join(',')}]`]);
    return new Map<number, PresentRow>(
      rows.map((row) => [integer(row, 'position'), { rowId: text(row, 'row_id'), cells: text(row, 'cells') }]),
    );
  }

  /**
   * Puts back the staged rows that are still missing, or still what was read, and answers how many those were. One of
   * whose tenant and name another has been written since `takenAt`, in Unix seconds, stays out. Throws GuardFailedError with one
   * of `conditions`; nothing was written then.
   */
  async merge(id: string, tables: readonly MovedTable[], takenAt: number, conditions: readonly Statement[]): Promise<number> {
    return this.#move(
      id,
      conditions,
      tables.flatMap((table) => mergeStatements(id, table, takenAt)),
    );
  }

  /**
   * Makes the tables exactly what is staged, and answers how many rows they hold. Throws GuardFailedError with
   * {@link presentGuard} where they are no longer what {@link stagePresent} noted, or with one of `conditions`.
   */
  async replaceAll(id: string, tables: readonly MovedTable[], conditions: readonly Statement[]): Promise<number> {
    const unchanged = tables.map(({ table }) => presentStatement(id, table));
    const deletions = tables.map((table) => deleteOthersStatement(id, table));
    return this.#move(
      id,
      [...conditions, ...unchanged, ...deletions],
      tables.flatMap((table) => replaceStatements(id, table)),
    );
  }

  /** Answers how many rows `moves` changed. */
  async #move(id: string, before: readonly Statement[], moves: readonly Statement[]): Promise<number> {
    const [row] = await this.#database.read('SELECT count(*) AS rows FROM vault_restore_rows WHERE restore_id = ?', [id]);
    const staged = row === undefined ? 0 : integer(row, 'rows');
    // Whoever deletes what was staged deletes the record with it: while that is there, all of it is.
    const whole = guard(stagedGuard, 'EXISTS (SELECT 1 FROM vault_restores WHERE id = ?)', [id]);
    const statements = [whole, ...before, ...moves, ...forgetStatements(id)];
    const written = await this.#database.write(statements, minWorkMs + staged * workPerRowMs);
    const first = 1 + before.length;
    return written.slice(first, first + moves.length).reduce((sum, changed) => sum + changed, 0);
  }
}

function forgetStatements(id: string): Statement[] {
  const tables = ['vault_restore_rows', 'vault_restore_present'];
  return [
    ...tables.map((table) => ({ sql: `DELETE FROM ${table} WHERE restore_id = ?`, args: [id] })),
    { sql: 'DELETE FROM vault_restores WHERE id = ?', args: [id] },
  ];
}

/** No covered table has such a name. */
const ofRestore = 'vault_staged.restore_id = ? AND vault_staged.table_name = ?';

const isRowIdTaken = (table: string): string => `EXISTS (SELECT 1 FROM ${table} AS t WHERE t.rowid = vault_staged.row_id)`;

function mergeStatements(id: string, { table, primaryKey, columnsPutBack }: MovedTable, takenAt: number): Statement[] {
  const name = quote(table);
  const key = primaryKey === null ? null : quote(primaryKey);
  const isAsRead = ciphertextColumns
    .map((column, index) => `AND ${name}.${column} IS ${decodeCell('vault_staged.present_cells', index)}`)
    .join(' ');
  const isSame = key === null ? '' : `AND ${name}.${key} IS vault_staged.match_key`;
  const isMissing =
    key === null
      ? `NOT ${isRowIdTaken(name)}`
      : `NOT EXISTS (SELECT 1 FROM ${name} AS t WHERE t.${key} = vault_staged.match_key)
       AND NOT (vault_staged.match_key IS NULL AND EXISTS (SELECT 1 FROM ${name} AS t WHERE t.rowid = vault_staged.row_id AND t.${key} IS NULL))`;
  const isOutdated = table.toLowerCase() === apiKeysTable ? `AND NOT ${isOutdatedKey(columnsPutBack, takenAt)}` : '';
  const missing = `FROM vault_restore_rows AS vault_staged WHERE ${ofRestore} AND vault_staged.present_row_id IS NULL AND ${isMissing} ${isOutdated}`;
  const { list, values, assignments } = columnsOf(columnsPutBack);
  const moves = [
    `UPDATE ${name} SET ${assignments} FROM vault_restore_rows AS vault_staged
     WHERE ${ofRestore} AND ${name}.rowid = vault_staged.present_row_id ${isSame} ${isAsRead}`,
    `INSERT INTO ${name} (rowid, ${list}) SELECT vault_staged.row_id, ${values} ${missing} AND NOT ${isRowIdTaken(name)}`,
    // Those whose row id another row has taken meanwhile, under whichever comes next.
    `INSERT INTO ${name} (${list}) SELECT ${values} ${missing}`,
  ];
  return moves.map((sql) => ({ sql, args: [id, table] }));
}

/**
 * Whether another value has been stored under the tenant and name of a staged row of `api_keys` since `takenAt`, as after it had been
 * deleted. Or whether it would count in place of a row that counted before it: of several of one second the one with the greatest row id
 * does, and a row that has lost its own gets a greater one.
 */
function isOutdatedKey(columns: readonly string[], takenAt: number): string {
  const positions = new Map(columns.map((column, index) => [column.toLowerCase(), index]));
  const cellOf = (column: string): string => decodeCell('vault_staged.cells', positions.get(column) ?? columns.length);
  const times = `(${cellOf('updated_at')}, ${cellOf('created_at')})`;
  return `EXISTS (SELECT 1 FROM ${apiKeysTable} AS n WHERE n.tenant_id IS ${cellOf('tenant_id')} AND n.name IS ${cellOf('name')}
    AND (n.updated_at >= ${takenAt} OR ((n.updated_at, n.created_at) = ${times} AND n.rowid > vault_staged.row_id AND ${isRowIdTaken(apiKeysTable)})))`;
}

/** Rows that stay are updated in place: deleting them could take along other programs' rows that refer to them. */
function deleteOthersStatement(id: string, { table, primaryKey }: MovedTable): Statement {
  const name = quote(table);
  const isSame = primaryKey === null ? '' : `AND vault_staged.match_key IS ${name}.${quote(primaryKey)}`;
  const sql = `DELETE FROM ${name} WHERE NOT EXISTS (
    SELECT 1 FROM vault_restore_rows AS vault_staged WHERE ${ofRestore} AND vault_staged.row_id = ${name}.rowid ${isSame})`;
  return { sql, args: [id, table] };
}

function replaceStatements(id: string, { table, columnsPutBack }: MovedTable): Statement[] {
  const name = quote(table);
  const { list, values, assignments } = columnsOf(columnsPutBack);
  const moves = [
    `UPDATE ${name} SET ${assignments} FROM vault_restore_rows AS vault_staged WHERE ${ofRestore} AND ${name}.rowid = vault_staged.row_id`,
    `INSERT INTO ${name} (rowid, ${list}) SELECT vault_staged.row_id, ${values} FROM vault_restore_rows AS vault_staged
     WHERE ${ofRestore} AND NOT ${isRowIdTaken(name)}`,
  ];
  return moves.map((sql) => ({ sql, args: [id, table] }));
}

function columnsOf(columns: readonly string[]): { list: string; values: string; assignments: string } {
  const values = columns.map((_column, index) => decodeCell('vault_staged.cells', index));
  return {
    list: columns.map(quote).join(', '),
    values: values.join(', '),
    assignments: columns.map((column, index) => `${quote(column)} = ${values[index]}`).join(', '),
  };
}

/** Fails the batch unless the table holds exactly the rows that were noted, with the ciphertexts that they had. */
function presentStatement(id: string, table: string): Statement {
  const isAsNoted = ciphertextColumns.map((column, index) => `t.${column} IS ${decodeCell('p.cells', index)}`).join(' AND ');
  const noted = 'FROM vault_restore_present AS p WHERE p.restore_id = ? AND p.table_name = ?';
  const condition = `(SELECT count(*) FROM ${quote(table)}) = (SELECT count(*) ${noted}) AND NOT EXISTS (
    SELECT 1 ${noted} AND NOT EXISTS (SELECT 1 FROM ${quote(table)} AS t WHERE t.rowid = p.row_id AND ${isAsNoted}))`;
  return guard(presentGuard, condition, [id, table, id, table]);
}
