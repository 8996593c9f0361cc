/**
 * A pass over all rows in the order of their row ids sees each of them. Whoever makes a table anew, as migrations do, gives its rows
 * other row ids, and VACUUM does where a table has no index, so that rows may come to stand behind the reader: then the pass is
 * made again.
 */

import { ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { integer, isTrue } from './connection.ts';
import type { Database } from './database.ts';

const maxPasses = 5;

/** Answers what a pass answers during which no row ids were given anew. Throws StorageUnavailableError after five attempts. */
export async function withLastingRowIds<Result>(database: Database, pass: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; attempt <= maxPasses; attempt += 1) {
    const epoch = await readEpoch(database);
    const result = await pass();
    if ((await readEpoch(database)) === epoch) return result;
  }
  throw new StorageUnavailableError(
    'The tables were made anew, as by a migration, each time they were read: run this again once that is over.',
  );
}

/** Throws ConfigurationError where `rowid` is not what SQLite numbers the rows of a table by. */
export async function assertHasRowIds(database: Database, table: string): Promise<void> {
  // An INTEGER PRIMARY KEY of the name rowid is the same number.
  const sql = `SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE lower(name) = lower(?1) AND wr = 1) AS is_without,
    EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE lower(name) = 'rowid'
      AND NOT (pk = 1 AND upper(type) = 'INTEGER' AND (SELECT max(pk) FROM pragma_table_info(?1)) = 1)) AS is_hidden`;
  const [row = {}] = await database.read(sql, [table]);
  if (isTrue(row, 'is_without')) throw new ConfigurationError(`The table ${table} is WITHOUT ROWID, and cannot be covered.`);
  if (isTrue(row, 'is_hidden')) throw new ConfigurationError(`The table ${table} has a column rowid, and cannot be covered.`);
}

/** Every change of the schema counts it up, and VACUUM. */
async function readEpoch(database: Database): Promise<number> {
  const [row] = await database.read('SELECT schema_version FROM pragma_schema_version');
  return row === undefined ? 0 : integer(row, 'schema_version');
}
