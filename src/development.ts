/**
 * Outside production, makes missing keys and tokens and keeps them in `data/dev.env`, so that a fresh checkout is a running
 * vault. Never makes a master key for a remote database, or for one whose rows are under a key that it did not make.
 */

import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { databaseUrlProblem, defaultDatabaseUrl, isProduction } from './config.ts';
import { generateMasterKeyText, parseMasterKey } from './crypto/master-key.ts';
import type { Environment } from './settings.ts';
import { syncFolder } from './snapshot/file.ts';
import { Database, isFileUrl } from './store/database.ts';
import { EncryptedTables } from './store/encrypted-tables.ts';
import { MasterKeyStore } from './store/master-keys.ts';
import { isMigrated } from './store/migrations.ts';
import { RotationStore } from './store/rotations.ts';

const fileName = 'data/dev.env';
const lockPollMs = 50;
const lockTimeoutMs = 10_000;
const header = '# Made by Provara Vault for development. These keys open your rows: keep them, and never commit them.';

type Settings = Readonly<Record<string, string>>;

export interface DevelopmentEnvironment {
  readonly environment: Environment;
  /** The absolute path of the file. */
  readonly path: string;
  /** The variables that the file adds to the environment. */
  readonly added: readonly string[];
  /** The variables that this start made, to be reported. */
  readonly made: readonly string[];
}

interface DatabaseState {
  readonly isLocal: boolean;
  /** Whether the database has rows, or an active key. */
  readonly isInUse: boolean;
  readonly activeKeyId: string | null;
  /** Ids of keys that are or were active. */
  readonly usedKeyIds: readonly string[];
  /** If so, the keys stay as they are: rows may need either. */
  readonly hasUnfinishedRotation: boolean;
}

/** Completes `data/dev.env`, and returns the environment with its contents. A variable that is set wins over the file. */
export async function completeEnvironment(environment: Environment): Promise<DevelopmentEnvironment> {
  const path = resolve(fileName);
  const url = environment.DATABASE_URL || defaultDatabaseUrl;
  if (url === defaultDatabaseUrl) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  if (databaseUrlProblem(url) !== null) return { environment, path, added: [], made: [] };
  const database = await inspectDatabase(url, environment.DATABASE_AUTH_TOKEN);
  const isGiven = isGivenIn(environment);
  const isComplete = Object.keys(changes(readSettings(path), isGiven, database)).length === 0;
  const made = isComplete ? {} : await makeSettings(path, isGiven, database);
  const kept = readSettings(path);
  return { environment: merge(environment, kept), path, added: applicable(environment, kept), made: Object.keys(made) };
}

/** Makes missing settings, in one process at a time: two that start at once must not each stage a key of their own. */
async function makeSettings(path: string, isGiven: (name: string) => boolean, database: DatabaseState): Promise<Settings> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  return withLock(`${path}.lock`, async () => {
    const made = changes(readSettings(path), isGiven, database);
    if (Object.keys(made).length > 0) await writeSettings(path, made);
    return made;
  });
}

/** The environment with the contents of `data/dev.env`, which is not changed; in production the environment alone. */
export function keptEnvironment(environment: Environment): Environment {
  return isProduction(environment) ? environment : merge(environment, readSettings(resolve(fileName)));
}

function merge(environment: Environment, kept: Settings): Environment {
  return { ...environment, ...Object.fromEntries(applicable(environment, kept).map((name) => [name, kept[name]])) };
}

/** The variables that the file adds: none that is set already, and no master key for a remote database. */
function applicable(environment: Environment, kept: Settings): string[] {
  const isLocal = isFileUrl(environment.DATABASE_URL || defaultDatabaseUrl);
  const isGiven = isGivenIn(environment);
  return Object.keys(kept).filter((name) => !isGiven(name) && (isLocal || !name.startsWith('PROVARA_MASTER_KEY')));
}

function isGivenIn(environment: Environment): (name: string) => boolean {
  return (name) => Boolean(environment[name] || environment[`${name}_FILE`]);
}

/** The settings to add to the file, or to replace in it. */
function changes(kept: Settings, isGiven: (name: string) => boolean, database: DatabaseState): Settings {
  const isMissing = (name: string): boolean => kept[name] === undefined && !isGiven(name);
  const next: Record<string, string> = {};
  if (isMissing('VAULT_GATEWAY_TOKENS')) next.VAULT_GATEWAY_TOKENS = `dev:${randomToken()}`;
  if (isMissing('VAULT_ADMIN_TOKENS')) next.VAULT_ADMIN_TOKENS = `dev:${randomToken()}`;

  const primary = isGiven('PROVARA_MASTER_KEY') ? undefined : kept.PROVARA_MASTER_KEY;
  const isUnderUnknownKeys = database.isInUse && primary === undefined;
  if (!database.isLocal || isUnderUnknownKeys || database.hasUnfinishedRotation) return next;
  if (isMissing('PROVARA_MASTER_KEY')) next.PROVARA_MASTER_KEY = generateMasterKeyText();
  const staged = isGiven('PROVARA_MASTER_KEY_NEW') || isGiven('PROVARA_MASTER_KEY_OLD') ? undefined : kept.PROVARA_MASTER_KEY_NEW;
  const isRotated = staged !== undefined && parseMasterKey(staged).id === database.activeKeyId;
  if (isRotated && primary !== undefined) {
    next.PROVARA_MASTER_KEY_OLD = primary;
    next.PROVARA_MASTER_KEY = staged;
    next.PROVARA_MASTER_KEY_NEW = generateMasterKeyText();
  } else if (!isRotated && staged !== undefined && database.usedKeyIds.includes(parseMasterKey(staged).id)) {
    // The staged key was rotated to, and back from.
    next.PROVARA_MASTER_KEY_OLD = staged;
    next.PROVARA_MASTER_KEY_NEW = generateMasterKeyText();
  }
  if (isMissing('PROVARA_MASTER_KEY_NEW')) next.PROVARA_MASTER_KEY_NEW = generateMasterKeyText();
  return next;
}

async function inspectDatabase(url: string, authToken: string | undefined): Promise<DatabaseState> {
  if (!isFileUrl(url)) return { isLocal: false, isInUse: true, activeKeyId: null, usedKeyIds: [], hasUnfinishedRotation: false };
  const database = new Database({ url, authToken });
  try {
    const found = await new EncryptedTables(database).discover(1);
    const isServed = await isMigrated(database);
    const masterKeys = isServed ? new MasterKeyStore(database) : null;
    const activeKeyId = (await masterKeys?.activeKeyId()) ?? null;
    const known = (await masterKeys?.all()) ?? [];
    return {
      isLocal: true,
      isInUse: activeKeyId !== null || found.some(({ rows }) => rows > 0),
      activeKeyId,
      usedKeyIds: known.filter(({ activatedAt }) => activatedAt !== null).map(({ keyId }) => keyId),
      hasUnfinishedRotation: isServed && (await new RotationStore(database).hasUnfinished()),
    };
  } finally {
    await database.close();
  }
}

function randomToken(): string {
  return randomBytes(24).toString('base64url');
}

function readSettings(path: string): Settings {
  const pairs = readLines(path).flatMap((line) => {
    const [, name, value] = /^([A-Z0-9_]+)=(.*)$/.exec(line) ?? [];
    return name === undefined || value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(pairs);
}

/**
 * Replaces changed settings and keeps every other line; an old value stays as a comment, since rows may need it. Survives a
 * crash.
 */
async function writeSettings(path: string, made: Settings): Promise<void> {
  const current = readLines(path);
  const isChanged = (line: string): boolean => Object.keys(made).some((name) => line.startsWith(`${name}=`));
  const lines = [
    ...(current.length === 0 ? [header] : []),
    ...current.map((line) => (isChanged(line) ? `# was: ${line}` : line)),
    ...Object.entries(made).map(([name, value]) => `${name}=${value}`),
  ];
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, `${lines.join('\n')}\n`, { mode: 0o600, flush: true });
  renameSync(temporary, path);
  // The folder itself may be new as well.
  for (const folder of [dirname(path), dirname(dirname(path))]) await syncFolder(folder);
}

function readLines(path: string): string[] {
  return existsSync(path) ? readFileSync(path, 'utf8').replace(/\n$/, '').split('\n') : [];
}

/** Runs in one process at a time. */
async function withLock<Result>(path: string, run: () => Promise<Result>): Promise<Result> {
  while (!tryLock(path)) await sleep(lockPollMs);
  try {
    return await run();
  } finally {
    rmSync(path, { force: true });
  }
}

/** Removes a lock left behind by a process that has died. */
function tryLock(path: string): boolean {
  try {
    writeFileSync(path, '', { flag: 'wx' });
    return true;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    const lockedAt = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - lockedAt > lockTimeoutMs) rmSync(path, { force: true });
    return false;
  }
}
