/**
 * The only way to the database. A read sees committed data; a write is one atomic batch, carried out once or not at all. Every
 * failure is either a {@link StorageUnavailableError}, after which the same call may be retried, or an error that names what is
 * wrong.
 */

import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pLimit, { type LimitFunction } from 'p-limit';
import { ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { withTimeout } from '../runtime/with-timeout.ts';
import type { Argument, Connection, Row } from './connection.ts';
import { AttemptTimeoutError, asMayBeDone, describe, kindOf, translate } from './failures.ts';
import { FileConnection } from './file-connection.ts';
import { asGuardFailure, type Statement } from './guards.ts';
import { MarkedWrite, ServerClock } from './marked-write.ts';
import { ServerConnection, withSignal } from './server-connection.ts';

/**
 * How long SQLite itself waits for a lock. It blocks the event loop meanwhile, so this is short and the longer waits are our
 * retries.
 */
const lockWaitMs = 20;
/**
 * Longer than any pause between SQLite's tries within {@link lockWaitMs}: a lock left free this long goes to a waiting writer.
 */
const lockGapMs = 15;
/** For how long a failed operation is retried. The last attempt begins within this time, and may end after it. */
const retryTotalMs = 4_000;
const maxRetryDelayMs = 200;
/** The timeout of one attempt on a server, and the extra time for each MiB sent. */
const attemptMs = 3_000;
const attemptPerMebibyteMs = 1_000;
/** The timeout of the request that settles a write, which sends and reads one row. */
const settleMs = 1_000;
/**
 * Extra time for an attempt that reads a page of all rows over a slow line: a page of large rows is almost three megabytes. A
 * stop that interrupts a rotation waits for this attempt, and has ten seconds in all.
 */
export const pageWorkMs = 5_000;
/** Requests of each kind in flight on a server. The rest queue here, where they can be cancelled, and not in the client. */
const maxReads = 20;
const maxLookups = 16;
/** A server has one writer at a time: more would only queue inside it, and one abandoned there may hold the lock for seconds. */
const maxWrites = 2;
/**
 * On a file, a write keeps its slot through all its retries: waiting for the lock blocks the event loop, and more writers would
 * not get it sooner.
 */
const maxFileWrites = 1;
/** The native client frees its statements only between turns of the event loop (libsql-js#153). */
const operationsPerTurn = 50;

export interface DatabaseLocation {
  readonly url: string;
  readonly authToken?: string | undefined;
  /** Identity of the file that the process has already opened: another file at the same path is not opened. */
  readonly fileIdentity?: string | undefined;
}

/** Whether a URL names a file on this machine rather than a server. */
export function isFileUrl(url: string): boolean {
  return url.startsWith('file:');
}

/** The path that a `file:` URL names. Throws if the URL is malformed. */
export function databaseFilePath(url: string): string {
  if (!url.startsWith('file://')) return decodeURIComponent(url.slice('file:'.length));
  return fileURLToPath(url.replace('file://localhost', 'file://'));
}

/** One attempt at an operation, abandoned at `endsAtMs`, by `performance.now()`. */
type Attempt<T> = (endsAtMs: number) => Promise<T>;

interface AttemptOptions {
  /** The timeout of one attempt on a server. */
  readonly timeoutMs: number;
  /** Limits the attempts in flight on a server. */
  readonly limit?: LimitFunction;
  /** When the last attempt may begin, by `performance.now()`; by default {@link retryTotalMs} from the start of the operation. */
  readonly lastAtMs?: number;
}

export class Database {
  readonly #connection: Connection;
  /** The same connection where the database is a file; null for a server. */
  readonly #file: FileConnection | null;
  readonly #clock: ServerClock;
  /** How another connection of this process is to be opened. */
  readonly location: DatabaseLocation;
  readonly #limit = pLimit(maxReads);
  readonly #lookupLimit = pLimit(maxLookups);
  readonly #writeLimit = pLimit(maxWrites);
  readonly #fileWriteLimit = pLimit(maxFileWrites);
  #operations = 0;
  readonly #counters = { retries: 0, failures: 0, checkpointFailures: 0 };

  /** Opens the database, creating the file if there is none. Throws ConfigurationError if it cannot be opened at all. */
  constructor(location: DatabaseLocation) {
    const { url, authToken, fileIdentity } = location;
    try {
      this.#file = isFileUrl(url) ? this.#openFile(url, fileIdentity) : null;
      this.#connection = this.#file ?? new ServerConnection(url, authToken, maxReads + maxLookups + maxWrites);
    } catch (error) {
      throw new ConfigurationError(`DATABASE_URL could not be opened: ${describe(error)}.`);
    }
    this.#clock = new ServerClock(this.#connection);
    this.location = { ...location, fileIdentity: this.#file?.identity };
  }

  #openFile(url: string, fileIdentity: string | undefined): FileConnection {
    return new FileConnection(databaseFilePath(url), lockWaitMs, fileIdentity, () => {
      this.#counters.checkpointFailures += 1;
    });
  }

  /** Whether the database is a file: the outcome of a commit is always known, and no server limits how long one may take. */
  get isOnFile(): boolean {
    return this.#file !== null;
  }

  /** Lets readers and a writer of a file run side by side. The mode is stored in the file, so setting it once is enough. */
  async useWriteAheadLog(): Promise<void> {
    if (this.#file !== null) await this.read('PRAGMA journal_mode = WAL');
  }

  /** Retries as needed. On a server an attempt may take `workMs` longer than one that reads a few rows. */
  async read(sql: string, args: readonly Argument[] = [], workMs = 0): Promise<readonly Row[]> {
    const { rows } = await this.#attempt(() => this.#connection.execute({ sql, args }), { timeoutMs: attemptMs + workMs });
    return rows;
  }

  /**
   * As {@link read}, but with a limit of its own, so that it never queues behind reads: for lookups that a chat completion waits
   * for.
   */
  async lookUp(sql: string, args: readonly Argument[]): Promise<readonly Row[]> {
    const options = { timeoutMs: attemptMs, limit: this.#lookupLimit };
    const { rows } = await this.#attempt(() => this.#connection.execute({ sql, args }), options);
    return rows;
  }

  /**
   * Commits all statements or none, exactly once, and returns how many rows each changed. Throws GuardFailedError. On a server an
   * attempt may take `workMs` longer than the size of its statements allows, for statements that process much stored data.
   */
  async write(statements: readonly Statement[], workMs = 0): Promise<number[]> {
    if (this.#file === null) return this.#writeMarked(statements, workMs);
    const results = await this.#batch(statements, (endsAtMs) => this.#connection.batch(statements, endsAtMs));
    return results.map(({ rowsAffected }) => rowsAffected);
  }

  /** As {@link write}, for statements that may safely run twice: on a server it records no mark. */
  async writeIdempotent(statements: readonly Statement[]): Promise<void> {
    await this.#batch(statements, (endsAtMs) => this.#connection.batch(statements, endsAtMs));
  }

  /**
   * As {@link writeIdempotent}, for frequent notes: on a file reads do not wait for the commit, which may take long whenever the
   * system flushes other programs' writes. On a server it is a marked {@link write}.
   */
  async writeBeside(statements: readonly Statement[]): Promise<void> {
    const file = this.#file;
    if (file === null) await this.write(statements);
    else await this.#batch(statements, (endsAtMs) => file.batchBeside(statements, endsAtMs));
  }

  /**
   * Lets waiting writers in, for a caller that writes repeatedly: a file's lock has no queue, so a writer that retakes it at once
   * may starve the others for seconds. A server queues its writers.
   */
  async letOthersWrite(): Promise<void> {
    if (this.#file !== null) await sleep(lockGapMs);
  }

  /** Attempts retried, and operations that failed because of the database, since it was opened. */
  get counters(): { readonly retries: number; readonly failures: number; readonly checkpointFailures: number } {
    return this.#counters;
  }

  /**
   * Checkpoints a file's write-ahead log, as far as no other reader holds it, so that the file can be copied after the process
   * ends.
   */
  async checkpoint(): Promise<void> {
    await this.#file?.checkpoint();
  }

  /** Resolves once the database is no longer in use by this object. */
  async close(): Promise<void> {
    await this.#connection.close();
  }

  /** See {@link MarkedWrite}. Reports a failure only once none of its attempts can still be carried out. */
  async #writeMarked(statements: readonly Statement[], workMs: number): Promise<number[]> {
    const write = new MarkedWrite(this.#connection, this.#clock, statements);
    const timeoutMs = attemptMs + sendingMs(write.statements) + workMs;
    try {
      return await this.#tryAgain((endsAtMs) => write.send(endsAtMs), { timeoutMs, limit: this.#writeLimit });
    } catch (error) {
      const changed = write.isUnsettled ? await this.#settle(write) : null;
      if (changed === null) throw write.asGuardFailure(this.#givenUp(error));
      return changed;
    }
  }

  /** As {@link MarkedWrite.settle}. It does not queue behind other writes: it holds the server's lock only for a moment. */
  async #settle(write: MarkedWrite): Promise<number[] | null> {
    const lastAtMs = Math.max(write.overAtMs, performance.now() + settleMs);
    try {
      return await this.#tryAgain((endsAtMs) => write.settle(endsAtMs), { timeoutMs: settleMs, lastAtMs });
    } catch (error) {
      await sleep(Math.max(write.overAtMs - performance.now(), 0));
      throw asMayBeDone(this.#givenUp(error));
    }
  }

  async #batch<T>(statements: readonly Statement[], send: Attempt<T>): Promise<T> {
    const options = { timeoutMs: attemptMs + sendingMs(statements), lastAtMs: performance.now() + retryTotalMs };
    try {
      if (this.#file === null) return await this.#attempt(send, options);
      return await this.#fileWriteLimit(() => this.#attempt(send, options));
    } catch (error) {
      throw asGuardFailure(error, statements);
    }
  }

  /** Retries the operation, and throws the caller's form of its error. */
  async #attempt<T>(operation: Attempt<T>, options: AttemptOptions): Promise<T> {
    try {
      return await this.#tryAgain(operation, options);
    } catch (error) {
      throw this.#givenUp(error);
    }
  }

  /**
   * Retries, without blocking, an operation that another writer or the network prevented. A file's connection is reopened each
   * time: after SQLITE_BUSY it may acknowledge writes that are rolled back later (libsql-client-ts#352).
   */
  async #tryAgain<T>(operation: Attempt<T>, options: AttemptOptions): Promise<T> {
    this.#operations += 1;
    if (this.#operations % operationsPerTurn === 0) await nextTurn();
    const { lastAtMs = performance.now() + retryTotalMs, timeoutMs, limit = this.#limit } = options;
    if (performance.now() > lastAtMs) throw new AttemptTimeoutError('Others wait before it.');
    for (let delayMs = 5; ; delayMs = Math.min(delayMs * 2, maxRetryDelayMs)) {
      try {
        return await this.#attemptOnce(operation, timeoutMs, limit);
      } catch (error) {
        const isFinal = kindOf(error) === 'final';
        if (!isFinal) this.#file?.reconnect();
        if (isFinal || performance.now() + delayMs > lastAtMs) throw error;
        this.#counters.retries += 1;
        await sleep(delayMs * (0.5 + Math.random()));
      }
    }
  }

  /** The error for the caller, counted if the database is at fault. */
  #givenUp(error: unknown): unknown {
    const told = translate(error);
    if (told instanceof StorageUnavailableError || told instanceof ConfigurationError) this.#counters.failures += 1;
    return told;
  }

  /** On a server an attempt that takes too long is abandoned, whether it is queued or in flight. */
  async #attemptOnce<T>(operation: Attempt<T>, timeoutMs: number, limit: LimitFunction): Promise<T> {
    const endsAtMs = performance.now() + timeoutMs;
    if (this.#file !== null) return operation(endsAtMs);
    const patience = new AbortController();
    const { signal } = patience;
    const given = limit(async () => {
      signal.throwIfAborted();
      return withSignal(signal, () => operation(endsAtMs));
    });
    return withTimeout(given, timeoutMs, () => {
      patience.abort(new AttemptTimeoutError('No answer in time.'));
      throw signal.reason;
    });
  }
}

/** The extra time that a large batch may take, for its transfer. */
function sendingMs(statements: readonly Statement[]): number {
  const values = statements.flatMap(({ args = [] }) => args);
  const bytes = values.reduce<number>((sum, value) => sum + bytesOf(value), 0);
  return (bytes / 1_048_576) * attemptPerMebibyteMs;
}

function bytesOf(value: Argument): number {
  return typeof value === 'string' || value instanceof Uint8Array ? Buffer.byteLength(value) : 8;
}
