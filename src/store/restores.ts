/**
 * Puts rows back in one transaction, however many: they are staged in tables of the vault's own first, and moved by SQL, each
 * only over what was read before.
 */

import { decodeCell, encodeCells } from './cells.ts';
import { integer, text } from './connection.ts';
import type { Database } from './database.ts';
import { ciphertextColumns } from './encrypted-rows.ts';
import { quote } from './encrypted-tables.ts';
import { guard, type Statement } from './guards.ts';
import { deleteOthersStatement, type MovedTable, mergeStatements, orderStatements, replaceStatements } from './restore-moves.ts';
import { type IdentifiedRow, noteStatement, pairedTo, pairStatements } from './restore-pairs.ts';

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

  /** Notes what rows are known by that are to be paired. Of those that have what is unique the last counts, as in {@link stage}. */
  async noteIdentities(id: string, table: string, rows: readonly IdentifiedRow[]): Promise<void> {
    await this.#database.write([noteStatement(id, table, rows)]);
  }

  /** Pairs all that was noted with the rows that are in the tables now, for {@link present}. */
  async pair(id: string, tables: readonly MovedTable[]): Promise<void> {
    const pairs = pairsOf(id, tables);
    if (pairs.length > 0) await this.#database.write(pairs, await this.#workMs(id));
  }

  async forgetPresent(id: string): Promise<void> {
    await this.#database.write([{ sql: 'DELETE FROM vault_restore_present WHERE restore_id = ?', args: [id] }], minWorkMs);
  }

  /**
   * The rows of the table that are those asked for: by the one column of its primary key, or as they were paired. Each key is the JSON
   * of `[cell, rowid]`; the answer is by the position of the key.
   */
  async present(id: string, moved: MovedTable, keys: readonly string[], columns: readonly string[]) {
    const { table, keyColumn } = moved;
    const found = keyColumn === null ? pairedTo(moved) : foundBy(keyColumn, table);
    const sql = `SELECT r.key AS position, CAST(t.rowid AS text) AS row_id, ${encodeCells(columns.map((column) => `t.${quote(column)}`))} AS cells
      FROM json_each(?) AS r ${found}`;
    const rows = await this.#database.read(sql, [`[${keys.join(',')}]`, ...(keyColumn === null ? [id, table] : [])]);
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
      [...conditions, ...pairsOf(id, tables)],
      tables.flatMap((table) => mergeStatements(id, table, takenAt)),
    );
  }

  /**
   * Makes the tables what is staged, and answers how many rows they hold. Rows that stay keep the row ids that they have now; of one
   * tenant and name the same counts as in the snapshot. Throws GuardFailedError with
   * {@link presentGuard} where they are no longer what {@link stagePresent} noted, or with one of `conditions`.
   */
  async replaceAll(id: string, tables: readonly MovedTable[], conditions: readonly Statement[]): Promise<number> {
    const unchanged = tables.map(({ table }) => presentStatement(id, table));
    const deletions = tables.map((table) => deleteOthersStatement(id, table));
    return this.#move(
      id,
      [...conditions, ...unchanged, ...pairsOf(id, tables), ...deletions],
      tables.flatMap((table) => replaceStatements(id, table)),
      tables.flatMap((table) => orderStatements(id, table)),
    );
  }

  /** Answers how many rows `moves` changed. */
  async #move(
    id: string,
    before: readonly Statement[],
    moves: readonly Statement[],
    after: readonly Statement[] = [],
  ): Promise<number> {
    // Whoever deletes what was staged deletes the record with it: while that is there, all of it is.
    const whole = guard(stagedGuard, 'EXISTS (SELECT 1 FROM vault_restores WHERE id = ?)', [id]);
    const statements = [whole, ...before, ...moves, ...after, ...forgetStatements(id)];
    const written = await this.#database.write(statements, await this.#workMs(id));
    const first = 1 + before.length;
    return written.slice(first, first + moves.length).reduce((sum, changed) => sum + changed, 0);
  }

  async #workMs(id: string): Promise<number> {
    const tables = ['vault_restore_rows', 'vault_restore_identities'];
    const counts = tables.map((table) => `(SELECT count(*) FROM ${table} WHERE restore_id = ?1)`);
    const [row] = await this.#database.read(`SELECT ${counts.join(' + ')} AS rows`, [id]);
    return minWorkMs + (row === undefined ? 0 : integer(row, 'rows')) * workPerRowMs;
  }
}

function pairsOf(id: string, tables: readonly MovedTable[]): Statement[] {
  return tables.flatMap((table) => (table.keyColumn === null ? pairStatements(id, table) : []));
}

/** Joins the table `t`, by its primary key, to the JSON of `[cell, rowid]` in `r.value`; of rows without one, the row id tells. */
function foundBy(keyColumn: string, table: string): string {
  const key = `t.${quote(keyColumn)}`;
  const cell = decodeCell("(r.value->'$')", 0);
  return `CROSS JOIN ${quote(table)} AS t
    ON (${key} = ${cell} OR (${cell} IS NULL AND ${key} IS NULL AND t.rowid = CAST(r.value->>1 AS integer)))`;
}

function forgetStatements(id: string): Statement[] {
  const tables = ['vault_restore_rows', 'vault_restore_identities', 'vault_restore_present'];
  return [
    ...tables.map((table) => ({ sql: `DELETE FROM ${table} WHERE restore_id = ?`, args: [id] })),
    { sql: 'DELETE FROM vault_restores WHERE id = ?', args: [id] },
  ];
}

/** Fails the batch unless the table holds exactly the rows that were noted, with the ciphertexts that they had. */
function presentStatement(id: string, table: string): Statement {
  const isAsNoted = ciphertextColumns.map((column, index) => `t.${column} IS ${decodeCell('p.cells', index)}`).join(' AND ');
  const noted = 'FROM vault_restore_present AS p WHERE p.restore_id = ? AND p.table_name = ?';
  const condition = `(SELECT count(*) FROM ${quote(table)}) = (SELECT count(*) ${noted}) AND NOT EXISTS (
    SELECT 1 ${noted} AND NOT EXISTS (SELECT 1 FROM ${quote(table)} AS t WHERE t.rowid = p.row_id AND ${isAsNoted}))`;
  return guard(presentGuard, condition, [id, table, id, table]);
}
