/**
 * Outside production, makes the keys and tokens that are missing and keeps them in `data/dev.env`, so that a fresh checkout
 * is a running vault. Never makes a master key for a remote database, or for one whose rows are under a key it did not make.
 */

import { randomBytes } from 'node:crypto';
import { chmodSync, linkSync, mkdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { databaseUrlProblem, defaultDatabaseUrl, isProduction } from './config.ts';
import { generateMasterKeyText, parseMasterKey } from './crypto/master-key.ts';
import type { Environment } from './settings.ts';
import { Database, isFileUrl } from './store/database.ts';
import { EncryptedTables } from './store/encrypted-tables.ts';
import { MasterKeyStore } from './store/master-keys.ts';
import { isMigrated } from './store/migrations.ts';

const fileName = 'data/dev.env';
const header = '# Made by Provara Vault for development. These keys open your rows: keep them, and never commit them.';

type Settings = Readonly<Record<string, string>>;

export interface DevelopmentEnvironment {
  readonly environment: Environment;
  /** The absolute path of the file. */
  readonly path: string;
  /** The variables that the file adds to the environment. */
  readonly added: readonly string[];
  /** The variables that this start made, for telling so. */
  readonly made: readonly string[];
}

interface DatabaseState {
  readonly isLocal: boolean;
  readonly hasRows: boolean;
  readonly activeKeyId: string | null;
}

/** The environment with what `data/dev.env` holds, which is completed first. A variable that is set wins over the file. */
export async function completeEnvironment(environment: Environment): Promise<DevelopmentEnvironment> {
  const path = resolve(fileName);
  const url = environment.DATABASE_URL || defaultDatabaseUrl;
  if (url === defaultDatabaseUrl) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  if (databaseUrlProblem(url) !== null) return { environment, path, added: [], made: [] };
  const kept = readSettings(path);
  const isGiven = (name: string): boolean => Boolean(environment[name] || environment[`${name}_FILE`]);
  const next = complete(kept, isGiven, await inspectDatabase(url, environment.DATABASE_AUTH_TOKEN));
  const made = Object.keys(next).filter((name) => next[name] !== kept[name]);
  if (made.length > 0) writeSettings(path, next, kept);
  const fromFile = Object.entries(next).filter(([name]) => !isGiven(name));
  return {
    environment: { ...environment, ...Object.fromEntries(fromFile) },
    path,
    added: fromFile.map(([name]) => name),
    made,
  };
}

/** The environment with what `data/dev.env` holds, which stays as it is; in production the environment alone. */
export function keptEnvironment(environment: Environment): Environment {
  if (isProduction(environment)) return environment;
  const kept = Object.entries(readSettings(resolve(fileName)));
  return { ...environment, ...Object.fromEntries(kept.filter(([name]) => !(environment[name] || environment[`${name}_FILE`]))) };
}

/** What the file is to hold. */
function complete(kept: Settings, isGiven: (name: string) => boolean, database: DatabaseState): Settings {
  const isMissing = (name: string): boolean => kept[name] === undefined && !isGiven(name);
  const next: Record<string, string> = { ...kept };
  if (isMissing('VAULT_GATEWAY_TOKENS')) next.VAULT_GATEWAY_TOKENS = `dev:${randomToken()}`;
  if (isMissing('VAULT_ADMIN_TOKENS')) next.VAULT_ADMIN_TOKENS = `dev:${randomToken()}`;

  const ownsKeys = kept.PROVARA_MASTER_KEY !== undefined && !isGiven('PROVARA_MASTER_KEY');
  if (!database.isLocal || (database.hasRows && !ownsKeys)) return next;
  if (isMissing('PROVARA_MASTER_KEY')) next.PROVARA_MASTER_KEY = generateMasterKeyText();
  const staged = kept.PROVARA_MASTER_KEY_NEW;
  const isRotated = staged !== undefined && ownsKeys && parseMasterKey(staged).id === database.activeKeyId;
  if (isRotated && kept.PROVARA_MASTER_KEY !== undefined) {
    next.PROVARA_MASTER_KEY_OLD = kept.PROVARA_MASTER_KEY;
    next.PROVARA_MASTER_KEY = staged;
  }
  if (isRotated || isMissing('PROVARA_MASTER_KEY_NEW')) next.PROVARA_MASTER_KEY_NEW = generateMasterKeyText();
  return next;
}

async function inspectDatabase(url: string, authToken: string | undefined): Promise<DatabaseState> {
  if (!isFileUrl(url)) return { isLocal: false, hasRows: true, activeKeyId: null };
  const database = new Database({ url, authToken });
  try {
    const found = await new EncryptedTables(database).discover();
    const activeKeyId = (await isMigrated(database)) ? await new MasterKeyStore(database).activeKeyId() : null;
    return { isLocal: true, hasRows: found.some(({ rows }) => rows > 0), activeKeyId };
  } finally {
    database.close();
  }
}

function randomToken(): string {
  return randomBytes(24).toString('base64url');
}

function readSettings(path: string): Settings {
  try {
    const lines = readFileSync(path, 'utf8').split('\n');
    const pairs = lines.filter((line) => /^[A-Z_]+=/.test(line)).map((line) => line.split(/=(.*)/s));
    return Object.fromEntries(pairs.map(([name, value]) => [name, value]));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return {};
    throw error;
  }
}

/** A key that leaves the settings stays in the file as a comment: rows or backups may still need it. */
function writeSettings(path: string, next: Settings, kept: Settings): void {
  const current = Object.values(next);
  const dropped = Object.entries(kept).filter(
    ([name, value]) => name.startsWith('PROVARA_MASTER_KEY') && !current.includes(value),
  );
  const retired = [...readRetired(path), ...dropped.map(([, value]) => `# retired: ${value}`)];
  const lines = [header, ...Object.entries(next).map(([name, value]) => `${name}=${value}`), ...retired];
  const temporary = `${path}.${process.pid}`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(temporary, `${lines.join('\n')}\n`, { mode: 0o600, flush: true });
  chmodSync(temporary, 0o600);
  if (Object.keys(kept).length > 0) renameSync(temporary, path);
  else linkNew(temporary, path);
}

function readRetired(path: string): string[] {
  try {
    return readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('# retired: '));
  } catch {
    return [];
  }
}

/** Fails where another process has made the file meanwhile: its keys must not be overwritten. */
function linkNew(temporary: string, path: string): void {
  try {
    linkSync(temporary, path);
  } finally {
    unlinkSync(temporary);
  }
}
