/**
 * The environment, read once into one frozen object that the server and the command line share; all problems are reported at
 * once.
 */

import { accessSync, constants, existsSync, realpathSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { type GivenKey, Keyring } from './crypto/keyring.ts';
import { parseMasterKey } from './crypto/master-key.ts';
import { type CoverageSettings, tableAmong } from './keys/coverage.ts';
import { type Environment, percentDecoded, SettingsError, SettingsReader } from './settings.ts';
import { type DatabaseLocation, databaseFilePath, isFileUrl } from './store/database.ts';
import { apiKeysTable } from './store/encrypted-rows.ts';
import { readTokens, type Token } from './tokens.ts';

const masterKeyVariables = ['PROVARA_MASTER_KEY', 'PROVARA_MASTER_KEY_NEW', 'PROVARA_MASTER_KEY_OLD'] as const;
export const defaultDatabaseUrl = 'file:./data/vault.db';
const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
const identifier = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** A table that was copied by hand may have other characters in its name; a comma or `%` in it is %-encoded. */
const nameOfCopy = /^[^\p{Cc}"'`;]+$/u;
/** How other programs ask for an embedded replica, which the vault refuses: see docs/adr/0004. */
const replicaVariables = ['DATABASE_SYNC_URL', 'LIBSQL_SYNC_URL', 'TURSO_SYNC_URL'] as const;
const noReplica =
  'embedded replicas are not supported, because their faults reach the callers. Set DATABASE_URL to the server itself.';
const databaseSchemes = ['file:', 'libsql:', 'http:', 'https:', 'ws:', 'wss:'];

/** The settings of every process that works on the database. */
export interface CoreConfig {
  readonly database: DatabaseLocation;
  readonly keyring: Keyring;
  readonly coverage: CoverageSettings;
  readonly atomicRows: number;
  readonly rotationDueDays: number;
  /** The absolute path of an existing folder; null if none is configured. */
  readonly snapshotDir: string | null;
  /** Whether to refuse `api_keys` rows in format 1, which are bound to no tenant. */
  readonly requireFormat2: boolean;
  readonly logLevel: (typeof logLevels)[number];
}

/** The settings passed to a thread, with the keyring as the keys that build it. */
export interface ThreadSettings extends Omit<CoreConfig, 'keyring'> {
  readonly keys: readonly GivenKey[];
}

export interface ServerConfig extends CoreConfig {
  readonly isProduction: boolean;
  readonly host: string;
  readonly port: number;
  readonly tokens: readonly Token[];
  /** Where uses of keys are recorded. */
  readonly audit: AuditSettings;
  /** Failed authentications and opened rows per minute, and the event loop delay in milliseconds; 0 disables a limit. */
  readonly limits: { readonly authFailures: number; readonly decrypts: number; readonly eventLoopDelayMs: number };
}

export interface AuditSettings {
  /** `stdout`, or an absolute path. */
  readonly log: string;
  readonly anchorSeconds: number;
}

/**
 * Throws SettingsError for a misspelt `production`: development mode would make keys, and keep them on a disk that does not
 * survive.
 */
export function isProduction({ NODE_ENV = '' }: Environment): boolean {
  if (NODE_ENV !== 'production' && NODE_ENV.trim().toLowerCase() === 'production') {
    throw new SettingsError(['NODE_ENV must be spelt production, in small letters and without white space.']);
  }
  return NODE_ENV === 'production';
}

/** Throws SettingsError with everything that is missing or malformed. */
export function readServerConfig(environment: Environment): ServerConfig {
  const reader = new SettingsReader(environment);
  const production = isProduction(environment);
  const core = readCore(reader, production);
  if (!reader.isSet('PROVARA_MASTER_KEY')) reader.problem('PROVARA_MASTER_KEY is required for API key encryption');
  const config: ServerConfig = {
    ...core,
    isProduction: production,
    host: reader.text('HOST') ?? (production ? '::' : '127.0.0.1'),
    port: reader.integer('PORT', 4100, { min: 0, max: 65_535 }),
    tokens: readTokens(reader, production),
    audit: readAudit(reader, core.database),
    limits: {
      authFailures: reader.integer('VAULT_LIMIT_AUTH_FAILURES', 30, { min: 0, max: 1_000_000 }),
      decrypts: reader.integer('VAULT_LIMIT_DECRYPTS', 0, { min: 0, max: 1_000_000_000 }),
      eventLoopDelayMs: reader.integer('VAULT_LIMIT_EVENT_LOOP_DELAY', 1_000, { min: 0, max: 60_000 }),
    },
  };
  reader.assertNone();
  return Object.freeze(config);
}

/** As {@link readServerConfig}, without the settings that only the server needs. The keyring may be empty. */
export function readCliConfig(environment: Environment): CoreConfig {
  const reader = new SettingsReader(environment);
  const config = readCore(reader, isProduction(environment));
  reader.assertNone();
  return Object.freeze(config);
}

function readCore(reader: SettingsReader, production: boolean): CoreConfig {
  const given = readTables(reader, 'VAULT_ENCRYPTED_TABLES', identifier) ?? [apiKeysTable];
  if (tableAmong(given, apiKeysTable) === undefined) reader.problem('VAULT_ENCRYPTED_TABLES must include api_keys.');
  const encryptedTables = given.map((table) => tableAmong([apiKeysTable], table) ?? table);
  const exemptTables = readTables(reader, 'VAULT_EXEMPT_TABLES', nameOfCopy) ?? [];
  if (exemptTables.some((table) => tableAmong(encryptedTables, table) !== undefined)) {
    reader.problem('VAULT_EXEMPT_TABLES names a table that is covered: api_keys, or one of VAULT_ENCRYPTED_TABLES.');
  }
  return {
    database: readDatabase(reader, production),
    keyring: readKeyring(reader),
    coverage: { encryptedTables, exemptTables },
    atomicRows: reader.integer('VAULT_ROTATION_ATOMIC_ROWS', 10_000, { min: 0, max: 1_000_000 }),
    rotationDueDays: reader.integer('VAULT_ROTATION_DUE_DAYS', 365, { min: 1, max: 36_500 }),
    snapshotDir: readSnapshotDir(reader),
    requireFormat2: reader.oneOf('VAULT_REQUIRE_FORMAT_2', ['true', 'false'], 'false') === 'true',
    logLevel: reader.oneOf('LOG_LEVEL', logLevels, 'info'),
  };
}

function readDatabase(reader: SettingsReader, production: boolean): DatabaseLocation {
  const given = reader.text('DATABASE_URL');
  if (given === undefined && production) {
    reader.problem('DATABASE_URL is required in production: a container’s own disk does not survive a deployment.');
  }
  const url = given ?? defaultDatabaseUrl;
  for (const name of replicaVariables) {
    if (reader.text(name) !== undefined) reader.problem(`${name} is set: ${noReplica}`);
  }
  const problem = given === undefined && production ? null : databaseUrlProblem(url);
  if (problem !== null) reader.problem(`DATABASE_URL ${problem}`);
  const authToken = reader.text('DATABASE_AUTH_TOKEN');
  // The token is sent as a header.
  if (authToken !== undefined && !isFileUrl(url) && !/^[\x21-\x7e]+$/.test(authToken))
    reader.problem('DATABASE_AUTH_TOKEN must be printable ASCII.');
  return { url, authToken };
}

/** The problem with a database URL, as the end of a sentence that begins with its variable, or null. */
export function databaseUrlProblem(url: string): string | null {
  const scheme = databaseSchemes.find((candidate) => url.startsWith(candidate));
  if (url !== url.trim()) return 'must not begin or end with white space.';
  if (scheme === undefined) return `must begin with one of ${databaseSchemes.join(', ')}.`;
  if (scheme !== 'file:') return serverUrlProblem(url);
  if (/[?#]/.test(url)) return 'must name a file and nothing else.';
  try {
    return databaseFileProblem(databaseFilePath(url));
  } catch {
    return 'is not a valid URL of a file that can be reached.';
  }
}

function serverUrlProblem(url: string): string | null {
  if (!URL.canParse(url)) return 'is not a valid URL.';
  const { username, password, searchParams } = new URL(url);
  const holdsNone = username === '' && password === '' && !searchParams.has('authToken');
  return holdsNone ? null : 'must not hold credentials: set DATABASE_AUTH_TOKEN.';
}

function databaseFileProblem(path: string): string | null {
  if (path === '' || path === '/' || path === ':memory:') return 'must name a file: a database in memory would lose every key.';
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return 'names a directory, not a database file.';
  if (existsSync(`${path}-info`)) return `names an embedded replica: ${noReplica}`;
  if (!statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory())
    return 'names a file in a directory that does not exist.';
  return null;
}

/** For commands that need no database. Throws SettingsError. */
export function readKeyringConfig(environment: Environment): Keyring {
  const reader = new SettingsReader(environment);
  const keyring = readKeyring(reader);
  reader.assertNone();
  return keyring;
}

function readSnapshotDir(reader: SettingsReader): string | null {
  const given = reader.text('VAULT_SNAPSHOT_DIR');
  if (given === undefined) return null;
  try {
    accessSync(given, constants.W_OK | constants.X_OK);
    if (statSync(given).isDirectory()) return resolve(given);
  } catch {
    // Reported below, whatever the reason.
  }
  reader.problem('VAULT_SNAPSHOT_DIR must name an existing folder that can be written.');
  return null;
}

function readAudit(reader: SettingsReader, { url }: DatabaseLocation): AuditSettings {
  const log = reader.text('VAULT_AUDIT_LOG') ?? 'stdout';
  const anchorSeconds = reader.integer('VAULT_AUDIT_ANCHOR_SECONDS', 300, { min: 1, max: 86_400 });
  if (log === 'stdout') return { log, anchorSeconds };
  if (/^\s|\s$|^std(out|err)$/i.test(log)) reader.problem('VAULT_AUDIT_LOG must be stdout, or the path of a file.');
  const folder = statSync(dirname(resolve(log)), { throwIfNoEntry: false });
  if (!folder?.isDirectory()) reader.problem('VAULT_AUDIT_LOG must be stdout, or name a file in an existing folder.');
  const isDatabaseFile = isFileUrl(url) && databaseUrlProblem(url) === null;
  if (isDatabaseFile && filesOf(databaseFilePath(url)).includes(realPath(log)))
    reader.problem('VAULT_AUDIT_LOG names the database: name another file.');
  return { log: resolve(log), anchorSeconds };
}

/** The database file, and the files that SQLite keeps beside it. */
function filesOf(databasePath: string): string[] {
  return ['', '-wal', '-shm'].map((suffix) => `${realPath(databasePath)}${suffix}`);
}

/** Resolves every link; works for a file that does not exist yet too. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

function readKeyring(reader: SettingsReader): Keyring {
  const given = masterKeyVariables.flatMap((source) => {
    const text = reader.textOrFile(source);
    return text === undefined ? [] : [{ source, key: parseMasterKey(text) }];
  });
  return new Keyring(given);
}

function readTables(reader: SettingsReader, name: string, allowed: RegExp): readonly string[] | undefined {
  const tables = reader.list(name)?.map((table) => percentDecoded(table) ?? '');
  if (tables?.some((table) => !allowed.test(table))) reader.problem(`${name} must be table names, comma-separated.`);
  // If a name is given in several spellings, the first counts.
  return tables && [...new Set(tables.map((table) => tableAmong(tables, table) ?? table))];
}
