/**
 * Reads all rows of a table page by page, in order of row id, so that a pass sees each of them. Recreating a table, as migrations
 * do, gives its rows new row ids, and so does VACUUM on a table with neither an index nor an INTEGER PRIMARY KEY; rows may then
 * move behind the reader, and the pass is repeated.
 */

import { AnswerTooLargeError, ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { integer, isTrue } from './connection.ts';
import type { Database } from './database.ts';
import type { RowIdRange } from './encrypted-rows.ts';

/** SQLite's smallest and greatest row ids. */
export const firstRowId = -(2n ** 63n);
export const lastRowId = 2n ** 63n - 1n;

const maxPasses = 5;

/**
 * All rows of a range in order of row id, in pages of at most `maxRows`. `read` returns the first rows of what is left, at most
 * `limit`, or null if none is left; if these are more than a server sends at once, fewer are read. Rows inserted meanwhile below
 * the reader's position are not seen.
 */
export async function* readPages<Page extends { readonly range: RowIdRange; readonly rows: number }>(
  { from, to }: RowIdRange,
  maxRows: number,
  read: (left: RowIdRange, limit: number) => Promise<Page | null>,
): AsyncGenerator<Page> {
  for (let next = from, limit = maxRows, most = maxRows; next <= to; ) {
    const page = await read({ from: next, to }, limit).catch((error: unknown) => {
      if (error instanceof AnswerTooLargeError && limit > 1) return undefined;
      throw error;
    });
    if (page === null) return;
    if (page === undefined) limit = most = Math.ceil(limit / 2);
    else {
      yield page;
      next = page.range.to + 1n;
      // After large rows, ask only for about as many as fit: the database would read the others for nothing.
      limit = Math.min(most, page.rows * 2);
    }
  }
}

/** Returns the result of a pass during which no row ids were reassigned. Throws StorageUnavailableError after five attempts. */
export async function withLastingRowIds<Result>(database: Database, pass: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; attempt <= maxPasses; attempt += 1) {
    const epoch = await readEpoch(database);
    const result = await pass();
    if ((await readEpoch(database)) === epoch) return result;
  }
  throw new StorageUnavailableError(
    'Something recreated the tables, as a migration does, each time they were read: run this again once it has ended.',
  );
}

/** Throws ConfigurationError if `rowid` is not SQLite's own row id in this table. */
export async function assertHasRowIds(database: Database, table: string): Promise<void> {
  // An INTEGER PRIMARY KEY named rowid is the row id itself.
  const sql = `SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE lower(name) = lower(?1) AND wr = 1) AS is_without,
    EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE lower(name) = 'rowid'
      AND NOT (pk = 1 AND upper(type) = 'INTEGER' AND (SELECT max(pk) FROM pragma_table_info(?1)) = 1)) AS is_hidden`;
  const [row = {}] = await database.read(sql, [table]);
  if (isTrue(row, 'is_without')) throw new ConfigurationError(`The table ${table} is WITHOUT ROWID, and cannot be covered.`);
  if (isTrue(row, 'is_hidden')) throw new ConfigurationError(`The table ${table} has a column rowid, and cannot be covered.`);
}

/** Raised by every schema change, and by VACUUM. */
async function readEpoch(database: Database): Promise<number> {
  const [row] = await database.read('SELECT schema_version FROM pragma_schema_version');
  return row === undefined ? 0 : integer(row, 'schema_version');
}
