/**
 * Brings any database to the schema that the vault needs by additions only: the gateway's own statements keep working on the
 * result.
 */

import { ConfigurationError } from '../errors.ts';
import { isTrue, text } from './connection.ts';
import type { Database } from './database.ts';
import { quote } from './encrypted-tables.ts';
import { isConstraint, isSchemaRace, MissingSchemaError } from './failures.ts';
import type { Statement } from './guards.ts';
import { assertHasRowIds } from './row-ids.ts';

/** The table as the gateway creates it, for a database that does not have it yet. */
const gatewayTable = `CREATE TABLE IF NOT EXISTS api_keys (
  id text PRIMARY KEY NOT NULL, name text NOT NULL, provider text NOT NULL,
  encrypted_value text NOT NULL, iv text NOT NULL, auth_tag text NOT NULL,
  tenant_id text, created_at integer NOT NULL, updated_at integer NOT NULL)`;

/**
 * `key_id` is a hint, valid only while `key_id_tag` equals `auth_tag`: a writer that knows neither column leaves them unchanged,
 * and the new tag then shows that the hint is stale.
 */
const addedColumns: Readonly<Record<string, string>> = {
  key_id: 'text',
  key_id_tag: 'text',
  last_used_at: 'integer',
};

const nameIndex = 'vault_api_keys_tenant_id_name';
const gatewayColumns = ['id', 'name', 'provider', 'encrypted_value', 'iv', 'auth_tag', 'tenant_id', 'created_at', 'updated_at'];

/** Forward only: never edit a statement that has shipped; append a new one. */
const migrations: readonly (readonly string[])[] = [
  [
    'CREATE TABLE vault_writes (id text PRIMARY KEY NOT NULL, changed text NOT NULL, written_at integer NOT NULL)',
    'CREATE TABLE vault_assertions (failed integer CHECK (failed IS NULL))',
    `CREATE TABLE vault_master_keys (
      key_id text PRIMARY KEY NOT NULL, is_passphrase integer NOT NULL, first_seen_at integer NOT NULL,
      activated_at integer, stateless_last_used_at integer)`,
    `CREATE TABLE vault_active_key (
      one integer PRIMARY KEY CHECK (one = 1), key_id text NOT NULL REFERENCES vault_master_keys (key_id))`,
    `CREATE TABLE vault_rotations (
      id text PRIMARY KEY NOT NULL, state text NOT NULL, from_key_id text NOT NULL, to_key_id text NOT NULL,
      upgrade_format integer NOT NULL, forced integer NOT NULL, skipped_rows text NOT NULL, rows_scanned integer NOT NULL DEFAULT 0,
      rows_rotated integer NOT NULL DEFAULT 0, rows_already_rotated integer NOT NULL DEFAULT 0,
      rows_skipped integer NOT NULL DEFAULT 0, rows_verified integer NOT NULL DEFAULT 0,
      error text, started_at integer NOT NULL, finished_at integer)`,
    `CREATE TABLE vault_rotation_lease (
      one integer PRIMARY KEY CHECK (one = 1), rotation_id text, owner text, fence integer NOT NULL, expires_at integer NOT NULL)`,
    'CREATE TABLE vault_replicas (id text PRIMARY KEY NOT NULL, host text NOT NULL, key_ids text NOT NULL, seen_at integer NOT NULL)',
    'INSERT INTO vault_rotation_lease (one, fence, expires_at) VALUES (1, 0, 0)',
  ],
  ['ALTER TABLE vault_rotations ADD COLUMN progress text'],
  [
    'CREATE TABLE vault_restores (id text PRIMARY KEY NOT NULL, started_at integer NOT NULL)',
    // match_key has no type, so that a primary key of any type is stored unchanged.
    `CREATE TABLE vault_restore_rows (
      restore_id text NOT NULL, table_name text NOT NULL, row_id integer NOT NULL, match_key, cells text NOT NULL,
      present_row_id integer, present_cells text)`,
    'CREATE UNIQUE INDEX vault_restore_rows_key ON vault_restore_rows (restore_id, table_name, match_key)',
    'CREATE INDEX vault_restore_rows_row_id ON vault_restore_rows (restore_id, table_name, row_id)',
    `CREATE TABLE vault_restore_present (
      restore_id text NOT NULL, table_name text NOT NULL, row_id integer NOT NULL, cells text NOT NULL,
      PRIMARY KEY (restore_id, table_name, row_id)) WITHOUT ROWID`,
  ],
  [
    'ALTER TABLE vault_rotations ADD COLUMN snapshot text',
    'ALTER TABLE vault_rotations ADD COLUMN switched integer NOT NULL DEFAULT 0',
  ],
  ['ALTER TABLE vault_master_keys ADD COLUMN seals integer NOT NULL DEFAULT 0'],
  [
    // AUTOINCREMENT never reuses a position, so that a cursor into the list stays valid.
    `CREATE TABLE vault_audit (
      position integer PRIMARY KEY AUTOINCREMENT, chain text NOT NULL, sequence integer NOT NULL, line text NOT NULL,
      UNIQUE (chain, sequence))`,
  ],
  ['ALTER TABLE vault_rotations ADD COLUMN rows_found_late integer NOT NULL DEFAULT 0'],
  [
    "ALTER TABLE vault_rotations ADD COLUMN covered_tables text NOT NULL DEFAULT '[]'",
    'ALTER TABLE vault_rotations ADD COLUMN rerun integer NOT NULL DEFAULT 0',
  ],
  [
    `CREATE TABLE vault_restore_identities (
      restore_id text NOT NULL, table_name text NOT NULL, row_id integer NOT NULL, identity text NOT NULL, is_unique integer NOT NULL,
      sealing text NOT NULL, present_row_id integer, PRIMARY KEY (restore_id, table_name, row_id)) WITHOUT ROWID`,
    `CREATE UNIQUE INDEX vault_restore_identities_unique ON vault_restore_identities (restore_id, table_name, identity)
      WHERE is_unique`,
  ],
  // Every replica forgets old marks every few seconds, under the lock of those who write.
  ['CREATE INDEX vault_writes_written_at ON vault_writes (written_at)'],
];

const isServedSql = "EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'vault_active_key')";

const maxAttempts = 5;

/**
 * Runs all missing migrations in one transaction. Several processes may do so at once: one that loses the race finds the work
 * done and checks again.
 */
export function migrate(database: Database): Promise<void> {
  return againAfterRace(() => migrateOnce(database));
}

async function againAfterRace(change: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await change();
      return;
    } catch (error) {
      const isRace = isSchemaRace(error) || isConstraint(error);
      if (!isRace || attempt === maxAttempts) throw error;
    }
  }
}

/** Whether the vault has ever served this database. Read-only. */
export async function isMigrated(database: Database): Promise<boolean> {
  const [row = {}] = await database.read(`SELECT ${isServedSql} AS is_served`);
  return isTrue(row, 'is_served');
}

/**
 * Refuses to create an empty api_keys if the table existed and has disappeared, or if its rows stand under another name: the
 * gateway's own migration may be about to rename the table that it has filled. Throws ConfigurationError.
 */
async function assertNotTakenAway(database: Database, isServed: boolean): Promise<void> {
  const copy = await findFilledCopy(database);
  if (!isServed && copy === null) return;
  const [lost, elsewhere] = [
    isServed ? ', which the vault has served,' : '',
    copy === null ? '' : `, and ${copy} holds rows of its shape`,
  ];
  throw new ConfigurationError(
    `The table api_keys${lost} is not there${elsewhere}: let the gateway's migration end, or run it, and put a snapshot back.`,
  );
}

/** The name of a table that has all of the gateway's columns, and rows; null if there is none. */
async function findFilledCopy(database: Database): Promise<string | null> {
  const isColumn = `lower(name) IN (${gatewayColumns.map(() => '?').join(', ')})`;
  const alike = await database.read(
    `SELECT name FROM sqlite_schema AS s WHERE type = 'table'
       AND (SELECT count(*) FROM pragma_table_info(s.name) WHERE ${isColumn}) = ${gatewayColumns.length} ORDER BY name`,
    gatewayColumns,
  );
  for (const row of alike) {
    const name = text(row, 'name');
    if ((await database.read(`SELECT 1 FROM ${quote(name)} LIMIT 1`)).length > 0) return name;
  }
  return null;
}

async function migrateOnce(database: Database): Promise<void> {
  const [row = {}] = await database.read(
    `SELECT ${isServedSql} AS is_served, EXISTS (SELECT 1 FROM sqlite_schema WHERE lower(name) = 'api_keys') AS is_present`,
  );
  const isServed = isTrue(row, 'is_served');
  if (!isTrue(row, 'is_present')) await assertNotTakenAway(database, isServed);
  await database.writeIdempotent([
    // Not if the table was there a moment ago: it may have been dropped since.
    ...(isServed ? [] : [{ sql: gatewayTable }]),
    { sql: 'CREATE TABLE IF NOT EXISTS vault_migrations (version integer PRIMARY KEY NOT NULL, applied_at integer NOT NULL)' },
  ]);
  await addMissingColumns(database);
  const applied = (await database.read('SELECT version FROM vault_migrations')).length;
  const missing = migrations.slice(applied).flatMap((statements, index) => recorded(applied + index + 1, statements));
  if (missing.length > 0) await database.writeIdempotent(missing);
}

/**
 * Adds the vault's columns and index where they are missing, as on a table that the gateway's own migrations have recreated.
 * Throws ConfigurationError if any of the gateway's own columns is missing.
 */
export function addMissingColumns(database: Database): Promise<void> {
  return againAfterRace(() => addMissingColumnsOnce(database));
}

/** Runs `operation`, and once more if another program's migration has dropped the vault's columns meanwhile. */
export async function withColumns<Result>(database: Database, operation: () => Promise<Result>): Promise<Result> {
  try {
    return await operation();
  } catch (error) {
    if (!(error instanceof MissingSchemaError)) throw error;
    await addMissingColumns(database);
    return operation();
  }
}

async function addMissingColumnsOnce(database: Database): Promise<void> {
  const columns = await database.read(
    "SELECT name, EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?) AS is_indexed FROM pragma_table_info('api_keys')",
    [nameIndex],
  );
  const present = new Set(columns.map((row) => text(row, 'name')));
  const lacking = gatewayColumns.filter((name) => !present.has(name));
  if (present.size > 0 && lacking.length > 0) {
    throw new ConfigurationError(`The table api_keys has no column ${lacking.join(', ')}: it is not the gateway's.`);
  }
  if (present.size > 0) await assertHasRowIds(database, 'api_keys');
  const missing = Object.entries(addedColumns).filter(([name]) => !present.has(name));
  const statements = missing.map(([name, type]) => ({ sql: `ALTER TABLE api_keys ADD COLUMN ${name} ${type}` }));
  if (!columns.some((row) => isTrue(row, 'is_indexed')))
    statements.push({ sql: `CREATE INDEX IF NOT EXISTS ${nameIndex} ON api_keys (tenant_id, name)` });
  if (statements.length > 0) await database.writeIdempotent(statements);
}

/** The record comes first: of several processes all but one fail there. */
function recorded(version: number, statements: readonly string[]): Statement[] {
  const record = { sql: 'INSERT INTO vault_migrations (version, applied_at) VALUES (?, unixepoch())', args: [version] };
  return [record, ...statements.map((sql) => ({ sql }))];
}
