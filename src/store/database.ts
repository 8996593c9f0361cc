/**
 * The one way to the database. A read sees committed data, a write is one atomic batch, and a failure is either
 * {@link StorageUnavailableError}, which is safe to try again, or an error that names what is wrong.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, createClient, type InArgs, LibsqlBatchError, LibsqlError, type ResultSet } from '@libsql/client';
import { ConfigurationError, StorageUnavailableError } from '../errors.ts';

/** How long SQLite itself waits for a lock. It blocks the event loop meanwhile, so the longer wait is ours. */
const lockWaitMs = 20;
const busyRetryTotalMs = 5_000;
const remoteTimeoutMs = 10_000;

export interface Statement {
  readonly sql: string;
  readonly args?: InArgs;
  /** Names a statement that {@link guard} made: it fails the whole batch with {@link GuardFailedError}. */
  readonly guard?: string;
}

export type Row = ResultSet['rows'][number];

export interface Written {
  readonly changed: number;
  /** What a RETURNING clause answered, a row for each that was changed. */
  readonly rows: readonly Row[];
}

export interface DatabaseLocation {
  readonly url: string;
  readonly authToken?: string | undefined;
}

/** Whether a URL names a file on this machine rather than a server. */
export function isFileUrl(url: string): boolean {
  return url.startsWith('file:');
}

/** A batch was rolled back because the condition of a {@link guard} in it did not hold. */
export class GuardFailedError extends Error {
  readonly guard: string;

  constructor(guard: string) {
    super(`The condition ${guard} did not hold; nothing was written.`);
    this.guard = guard;
  }
}

/** Makes the batch that holds it roll back unless `condition`, an SQL expression, is true at its place in the batch. */
export function guard(name: string, condition: string, args: InArgs = []): Statement {
  return { sql: `INSERT INTO vault_assertions (failed) SELECT 1 WHERE NOT (${condition})`, args, guard: name };
}

/** The value of a column that the schema makes text. */
export function text(row: Row, column: string): string {
  return String(row[column]);
}

export function textOrNull(row: Row, column: string): string | null {
  const value = row[column];
  return value === null || value === undefined ? null : String(value);
}

export function integer(row: Row, column: string): number {
  return Number(row[column]);
}

export function integerOrNull(row: Row, column: string): number | null {
  const value = row[column];
  return value === null || value === undefined ? null : Number(value);
}

export class Database {
  readonly #client: Client;

  /** Opens the database, creating the file where there is none. Throws ConfigurationError where it cannot be opened at all. */
  constructor({ url, authToken }: DatabaseLocation) {
    try {
      this.#client = createClient({
        url,
        ...(authToken === undefined ? {} : { authToken }),
        // Not 'number', which throws for an integer above 2^53, after the fact.
        intMode: 'bigint',
        timeout: lockWaitMs,
        // One connection to a file: statements run one after the other anyway, and settings then hold for all of them.
        concurrency: isFileUrl(url) ? 1 : 20,
        fetch: (request: Request) => fetch(request, { signal: AbortSignal.timeout(remoteTimeoutMs) }),
      });
    } catch (error) {
      throw new ConfigurationError(`DATABASE_URL could not be opened: ${describe(error)}.`);
    }
  }

  /** Lets readers and a writer of a file work side by side; recorded in the file, so once is enough. */
  async useWriteAheadLog(): Promise<void> {
    if (this.#client.protocol === 'file') await this.read('PRAGMA journal_mode = WAL');
  }

  async read(sql: string, args: InArgs = []): Promise<Row[]> {
    const { rows } = await this.#attempt(() => this.#client.execute({ sql, args }));
    return rows;
  }

  /** Commits all statements or none, and answers what each changed. */
  async write(statements: readonly Statement[]): Promise<Written[]> {
    const batch = statements.map(({ sql, args = [] }) => ({ sql, args }));
    try {
      const results = await this.#attempt(() => this.#client.batch(batch, 'write'));
      return results.map(({ rowsAffected, rows }) => ({ changed: rows.length > 0 ? rows.length : rowsAffected, rows }));
    } catch (error) {
      const failed = error instanceof LibsqlBatchError ? statements[error.statementIndex]?.guard : undefined;
      if (failed !== undefined && isConstraint(error)) throw new GuardFailedError(failed);
      throw error;
    }
  }

  /** Writes one statement and answers how many rows it changed. */
  async writeOne(sql: string, args: InArgs = []): Promise<number> {
    const [written] = await this.write([{ sql, args }]);
    return written?.changed ?? 0;
  }

  close(): void {
    this.#client.close();
  }

  /**
   * A busy database is waited for without blocking. The connection is replaced each time: after SQLITE_BUSY it may
   * acknowledge writes that are rolled back later (libsql-client-ts#352, libsql-js#228).
   */
  async #attempt<T>(operation: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + busyRetryTotalMs;
    for (let delayMs = 5; ; delayMs = Math.min(delayMs * 2, 200)) {
      try {
        return await operation();
      } catch (error) {
        if (!isBusy(error)) throw translate(error);
        await this.#client.reconnect();
        if (Date.now() + delayMs > deadline) throw new StorageUnavailableError('The database is locked by another writer.');
        await sleep(delayMs * (0.5 + Math.random()));
      }
    }
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof LibsqlError && /^SQLITE_(BUSY|LOCKED)/.test(error.code);
}

function isConstraint(error: unknown): boolean {
  return error instanceof LibsqlError && error.code.startsWith('SQLITE_CONSTRAINT');
}

function translate(error: unknown): unknown {
  const message = error instanceof Error ? error.message : '';
  const missing = /no such (table|column): ([\w.]+)/.exec(message);
  if (missing !== null) {
    return new ConfigurationError(
      `The database has no ${missing[1]} ${missing[2]}. Restart the vault to put back what it needs.`,
    );
  }
  if (isConstraint(error) || (error instanceof LibsqlError && error.code === 'SQLITE_ERROR')) return error;
  return new StorageUnavailableError(`The database could not be used: ${describe(error)}.`);
}

/** A code alone where there is one: the client's messages may quote a URL. */
function describe(error: unknown): string {
  if (error instanceof LibsqlError) return error.code;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error && 'code' in cause ? String(cause.code) : 'it did not open';
}
