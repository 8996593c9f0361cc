/**
 * Puts rows back in one transaction, however many there are: they are first staged in tables of the vault's own, then moved by
 * SQL, each only over the row that was read before.
 */

import { decodeCell, encodeCells } from './cells.ts';
import { integer, text } from './connection.ts';
import type { Database } from './database.ts';
import { ciphertextColumns } from './encrypted-rows.ts';
import { quote } from './encrypted-tables.ts';
import { guard, type Statement } from './guards.ts';
import { deleteOthersStatement, type MovedTable, mergeStatements, orderStatements, replaceStatements } from './restore-moves.ts';
import { type IdentifiedRow, noteStatement, pairedTo, pairStatements } from './restore-pairs.ts';

/** Age in seconds at which staged rows count as left behind by a process that has died. */
const forgottenSeconds = 3_600;
/** Extra time for the move on a server: per row, on top of a fixed minimum. */
const workPerRowMs = 0.5;
const minWorkMs = 20_000;

/** A row that is in the table now. */
export interface PresentRow {
  readonly rowId: string;
  /** JSON of the requested cells. */
  readonly cells: string;
}

export interface StagedRow {
  readonly rowId: string;
  /** JSON of the primary key's cell; `null` where there is none. */
  readonly matchCell: string;
  readonly cells: string;
  /** The row to be replaced, with the cells of {@link ciphertextColumns} as they were read; null if it is missing. */
  readonly present: PresentRow | null;
}

/** The guard that fails once the tables are not as they were read. */
export const presentGuard = 'restore_present';
/** The guard that fails if some staged rows are gone. */
const stagedGuard = 'restore_staged';

export class RestoreStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async begin(id: string): Promise<void> {
    await this.#database.write([{ sql: 'INSERT INTO vault_restores (id, started_at) VALUES (?, unixepoch())', args: [id] }]);
  }

  /** Deletes what abandoned restores have staged. */
  async forgetStale(): Promise<void> {
    const rows = await this.#database.read(`SELECT id FROM vault_restores WHERE started_at < unixepoch() - ${forgottenSeconds}`);
    for (const row of rows) await this.forget(text(row, 'id'));
  }

  async forget(id: string): Promise<void> {
    await this.#database.write(forgetStatements(id), minWorkMs);
  }

  /** The last row with a given primary key wins: a row that was rewritten during the read was read twice. */
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

  /** Records the present rows of the table, for {@link replaceAll} to compare with. */
  async stagePresent(id: string, table: string, rows: readonly PresentRow[]): Promise<void> {
    const sql = `INSERT OR REPLACE INTO vault_restore_present (restore_id, table_name, row_id, cells)
      SELECT ?, ?, CAST(value->>0 AS integer), value->1 FROM json_each(?)`;
    const json = JSON.stringify(rows.map(({ rowId, cells }) => [rowId, JSON.parse(cells)]));
    await this.#database.write([{ sql, args: [id, table, json] }]);
  }

  /** Records the identities of rows to be paired. The last row with a given unique identity wins, as in {@link stage}. */
  async noteIdentities(id: string, table: string, rows: readonly IdentifiedRow[]): Promise<void> {
    await this.#database.write([noteStatement(id, table, rows)]);
  }

  /** Pairs all recorded identities with the rows that are in the tables now, for {@link present}. */
  async pair(id: string, tables: readonly MovedTable[]): Promise<void> {
    const pairs = pairsOf(id, tables);
    if (pairs.length > 0) await this.#database.write(pairs, await this.#workMs(id));
  }

  async forgetPresent(id: string): Promise<void> {
    await this.#database.write([{ sql: 'DELETE FROM vault_restore_present WHERE restore_id = ?', args: [id] }], minWorkMs);
  }

  /**
   * The table's rows for these keys, found by its single primary-key column or through the pairs. Each key is the JSON `[cell,
   * rowid]`; the result is keyed by the position of the key.
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
   * Puts back the staged rows that are still missing or still as they were read, and returns how many. A row whose tenant and
   * name another row has been written under since `takenAt`, in Unix seconds, stays out. Throws GuardFailedError, with nothing
   * written, if one of `conditions` fails.
   */
  async merge(id: string, tables: readonly MovedTable[], takenAt: number, conditions: readonly Statement[]): Promise<number> {
    return this.#move(
      id,
      [...conditions, ...pairsOf(id, tables)],
      tables.flatMap((table) => mergeStatements(id, table, takenAt)),
    );
  }

  /**
   * Makes the tables what is staged, and returns how many rows they hold. Rows that stay keep the row ids that they have now; of
   * several rows of one tenant and name the same one counts as in the snapshot. Throws GuardFailedError with {@link presentGuard}
   * if the tables no longer match what {@link stagePresent} recorded, or if one of `conditions` fails.
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

  /** Returns how many rows `moves` changed. */
  async #move(
    id: string,
    before: readonly Statement[],
    moves: readonly Statement[],
    after: readonly Statement[] = [],
  ): Promise<number> {
    // Staged rows are always deleted together with this record: while it exists, all of them do.
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

/**
 * Joins the table `t`, by its primary key, to the JSON `[cell, rowid]` in `r.value`; rows with a null key are matched by row id.
 */
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

/** Fails the batch unless the table holds exactly the recorded rows, with the recorded ciphertexts. */
function presentStatement(id: string, table: string): Statement {
  const isAsNoted = ciphertextColumns.map((column, index) => `t.${column} IS ${decodeCell('p.cells', index)}`).join(' AND ');
  const noted = 'FROM vault_restore_present AS p WHERE p.restore_id = ? AND p.table_name = ?';
  const condition = `(SELECT count(*) FROM ${quote(table)}) = (SELECT count(*) ${noted}) AND NOT EXISTS (
    SELECT 1 ${noted} AND NOT EXISTS (SELECT 1 FROM ${quote(table)} AS t WHERE t.rowid = p.row_id AND ${isAsNoted}))`;
  return guard(presentGuard, condition, [id, table, id, table]);
}
