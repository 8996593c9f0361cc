/** Classifies failures between the vault and its database, and describes each in words that tell an operator what to look at. */

import { LibsqlError } from '@libsql/client';
import { AnswerTooLargeError, ConfigurationError, StorageUnavailableError } from '../errors.ts';

/**
 * `passing`: nothing was done, since another writer holds the lock or the server was not reached. `lost`: it may or may not have
 * been carried out. `final`: retrying changes nothing.
 */
export type FailureKind = 'passing' | 'lost' | 'final';

/** An attempt timed out; whether it is carried out is unknown. */
export class AttemptTimeoutError extends Error {
  readonly code = 'ETIMEDOUT';
}

/** A table or column is missing; one of the vault's own can be restored. */
export class MissingSchemaError extends ConfigurationError {}

const unreachedCodes = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'];

/** The server asks to be called again later. */
const throttlingStatuses = [408, 425, 429];

/** What SQLite's error codes mean to an operator. */
const meanings: readonly (readonly [RegExp, string])[] = [
  [/^SQLITE_(BUSY|LOCKED)/, 'another writer keeps it locked'],
  [/^ETIMEDOUT/, 'it did not answer in time'],
  [/^TRANSACTION_TIMEOUT/, 'the transaction took so long that the server gave its lock to another writer'],
  [/^SQLITE_FULL/, 'the disk is full'],
  [
    /^SQLITE_READONLY_DBMOVED/,
    'another file has taken its place since it was opened: stop the vault, move the -wal beside it to the old one unless it is empty, and start it again',
  ],
  [/^SQLITE_READONLY/, 'the file or its folder is read-only'],
  [/^SQLITE_(CORRUPT|NOTADB)/, 'the file is damaged, or no database'],
  [/^SQLITE_(CANTOPEN|IOERR|PERM|AUTH)/, 'the file cannot be read or written'],
  [/^(RESPONSE_TOO_LARGE|SQLITE_TOOBIG|ARGS_INVALID)/, 'a value is larger than the server takes'],
];

export function kindOf(error: unknown): FailureKind {
  const code = codeOf(error);
  if (/^SQLITE_(BUSY|LOCKED)/.test(code) || unreachedCodes.includes(code)) return 'passing';
  if (!(error instanceof LibsqlError)) return isFromNetwork(error) ? 'lost' : 'final';
  if (/^(HRANA_|STREAM_|TRANSACTION_|CLIENT_CLOSED)/.test(code)) return 'lost';
  const status = statusOf(error);
  if (status !== null && throttlingStatuses.includes(status)) return 'passing';
  return code === 'SERVER_ERROR' && (status === null || status >= 500) ? 'lost' : 'final';
}

/** A request or answer that was cut off, or a timeout; never an error thrown by our own code. */
function isFromNetwork(error: unknown): boolean {
  if (error instanceof AttemptTimeoutError || error instanceof SyntaxError) return true;
  const isAborted = error instanceof Error && ['AbortError', 'TimeoutError'].includes(error.name);
  return isAborted || (error instanceof TypeError && (codeOf(error) !== '' || /fetch failed|terminated/.test(error.message)));
}

export function isConstraint(error: unknown): error is LibsqlError {
  return error instanceof LibsqlError && error.code.startsWith('SQLITE_CONSTRAINT');
}

/** What SQLite says of a broken constraint: names, and never a value. Null for a trigger, which says what its author chose. */
export function brokenConstraint({ message }: LibsqlError): string | null {
  return /(?:CHECK|FOREIGN KEY|NOT NULL|UNIQUE) constraint failed.{0,200}/.exec(message)?.[0] ?? null;
}

/** Another process has made the same schema change first. A server reports no code for it. */
export function isSchemaRace(error: unknown): boolean {
  return error instanceof LibsqlError && /duplicate column|already exists/i.test(error.message);
}

const ownAdvice = 'Restart the vault, in this version: that puts back what is its own.';
const otherTableAdvice = "Let the gateway's migration end, or run it, and put a snapshot back.";

/** The error for the caller. An SQL error that only our code can have caused is passed through. */
export function translate(error: unknown): unknown {
  const message = error instanceof Error ? error.message : '';
  const [, kind, name] = /no such (table|column): (?:main\.)?([\w.]+)/.exec(message) ?? [];
  if (kind !== undefined) {
    const advice = kind === 'table' && !name?.includes('vault_') ? otherTableAdvice : ownAdvice;
    return new MissingSchemaError(`The database has no ${kind} ${name}. ${advice}`);
  }
  const status = statusOf(error);
  if (status === 401 || status === 403)
    return new ConfigurationError('The database refuses DATABASE_AUTH_TOKEN, or requires one and none is set.');
  if (status !== null && status < 500 && !throttlingStatuses.includes(status)) {
    return new ConfigurationError(`DATABASE_URL does not name a libSQL server: it answers with status ${status}.`);
  }
  if (isConstraint(error) || isSchemaRace(error) || codeOf(error) === 'SQLITE_ERROR') return error;
  if (!(error instanceof LibsqlError) && !isFromNetwork(error)) return error;
  const reason = `The database could not be used: ${describe(error)}.`;
  return ['RESPONSE_TOO_LARGE', 'SQLITE_TOOBIG'].includes(codeOf(error))
    ? new AnswerTooLargeError(reason)
    : new StorageUnavailableError(reason);
}

/** The error for the caller of a write that may have been carried out: it never claims that nothing was. */
export function asMayBeDone(told: unknown): unknown {
  const isKept = !(told instanceof ConfigurationError || told instanceof StorageUnavailableError);
  return isKept ? told : new StorageUnavailableError(told.message, { may_be_done: true });
}

/** The code and its meaning; never the client's own message, which may quote a URL or a value. */
export function describe(error: unknown): string {
  const code = codeOf(error) || 'it did not open';
  const [, meaning] = meanings.find(([pattern]) => pattern.test(code)) ?? [];
  if (meaning !== undefined) return `${meaning} (${code})`;
  return unreachedCodes.includes(code) ? `it cannot be reached at DATABASE_URL (${code})` : code;
}

function codeOf(error: unknown): string {
  if (error instanceof LibsqlError) return error.code;
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    if ('code' in each && typeof each.code === 'string') return each.code;
  }
  return '';
}

/** The HTTP status of the server's answer, or null. */
function statusOf(error: unknown): number | null {
  if (!(error instanceof LibsqlError) || error.code !== 'SERVER_ERROR') return null;
  const cause: unknown = error.cause;
  return cause instanceof Error && 'status' in cause && typeof cause.status === 'number' ? cause.status : null;
}
