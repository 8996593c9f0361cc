/**
 * The one way to the database. A read sees committed data; a write is one atomic batch, carried out once or not at all.
 * Every failure is {@link StorageUnavailableError}, where the same may be tried again, or an error that names what is wrong.
 */

import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pLimit, { type LimitFunction } from 'p-limit';
import { ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { within } from '../runtime/within.ts';
import type { Argument, Connection, Row } from './connection.ts';
import { AttemptTimeoutError, asMayBeDone, describe, kindOf, translate } from './failures.ts';
import { FileConnection } from './file-connection.ts';
import { asGuardFailure, type Statement } from './guards.ts';
import { MarkedWrite, ServerClock } from './marked-write.ts';
import { ServerConnection, withSignal } from './server-connection.ts';

/** How long SQLite itself waits for a lock. It blocks the event loop meanwhile, so the longer wait is ours. */
const lockWaitMs = 20;
/** Longer than any pause that SQLite makes between two tries within {@link lockWaitMs}: whoever is waiting then gets the lock. */
const lockGapMs = 15;
/** For so long an operation that failed is tried again; the attempt that runs then is the last. */
const retryTotalMs = 4_000;
const maxRetryDelayMs = 200;
/** How long one attempt on a server may take, and how much longer for each MiB that it sends. */
const attemptMs = 3_000;
const attemptPerMebibyteMs = 1_000;
/** The same of the request that settles a write, which sends and reads one row. */
const settleMs = 1_000;
/**
 * How much longer one may take that reads a page of all rows, over a slow line: a page of large ones is almost three megabytes. A stop
 * that interrupts a rotation waits for it, and has ten seconds.
 */
export const pageWorkMs = 5_000;
/** So many requests of a kind are under way on a server at once. Others wait here, where they can be given up, not in the client. */
const maxReads = 20;
const maxLookups = 16;
/** A server lets one writer at a time: more only wait inside it, and one that is given up there may hold its lock for seconds. */
const maxWrites = 2;
/** On a file, through all of its tries: each that waits for the lock blocks the event loop, and would not get it sooner beside others. */
const maxFileWrites = 1;
/** The native client frees its statements only between turns of the event loop (libsql-js#153). */
const operationsPerTurn = 50;

export interface DatabaseLocation {
  readonly url: string;
  readonly authToken?: string | undefined;
  /** Of the file that the process has opened already: another that has taken its place is not opened. */
  readonly fileIdentity?: string | undefined;
}

/** Whether a URL names a file on this machine rather than a server. */
export function isFileUrl(url: string): boolean {
  return url.startsWith('file:');
}

/** The path that a `file:` URL names. Throws where it is malformed. */
export function databaseFilePath(url: string): string {
  if (!url.startsWith('file://')) return decodeURIComponent(url.slice('file:'.length));
  return fileURLToPath(url.replace('file://localhost', 'file://'));
}

/** One attempt at an operation, which is given up at `endsAtMs` by `performance.now()`. */
type Attempt<T> = (endsAtMs: number) => Promise<T>;

interface AttemptOptions {
  /** How long one may take on a server. */
  readonly timeoutMs: number;
  /** Of those under way at once on a server. */
  readonly limit?: LimitFunction;
  /** When the last may begin, by `performance.now()`; {@link retryTotalMs} from now, unless it had to wait for its turn. */
  readonly lastAtMs?: number;
}

export class Database {
  readonly #connection: Connection;
  /** The same connection; null to a server. */
  readonly #file: FileConnection | null;
  readonly #clock: ServerClock;
  /** What another connection of this process is to be opened with. */
  readonly location: DatabaseLocation;
  readonly #limit = pLimit(maxReads);
  readonly #lookupLimit = pLimit(maxLookups);
  readonly #writeLimit = pLimit(maxWrites);
  readonly #fileWriteLimit = pLimit(maxFileWrites);
  #operations = 0;
  readonly #counters = { retries: 0, failures: 0 };

  /** Opens the database, creating the file where there is none. Throws ConfigurationError where it cannot be opened at all. */
  constructor(location: DatabaseLocation) {
    const { url, authToken, fileIdentity } = location;
    try {
      this.#file = isFileUrl(url) ? new FileConnection(databaseFilePath(url), lockWaitMs, fileIdentity) : null;
      this.#connection = this.#file ?? new ServerConnection(url, authToken, maxReads + maxLookups + maxWrites);
    } catch (error) {
      throw new ConfigurationError(`DATABASE_URL could not be opened: ${describe(error)}.`);
    }
    this.#clock = new ServerClock(this.#connection);
    this.location = { ...location, fileIdentity: this.#file?.identity };
  }

  /** Where nothing is lost on the way, and what a commit takes is nobody's limit. */
  get isOnFile(): boolean {
    return this.#file !== null;
  }

  /** Lets readers and a writer of a file work side by side; recorded in the file, so once is enough. */
  async useWriteAheadLog(): Promise<void> {
    if (this.#file !== null) await this.read('PRAGMA journal_mode = WAL');
  }

  /** On a server an attempt may take `workMs` longer than one that reads a few rows. */
  async read(sql: string, args: readonly Argument[] = [], workMs = 0): Promise<readonly Row[]> {
    const { rows } = await this.#attempt(() => this.#connection.execute({ sql, args }), { timeoutMs: attemptMs + workMs });
    return rows;
  }

  /** As {@link read}, but it waits behind none of those: for what a chat completion waits for. */
  async lookUp(sql: string, args: readonly Argument[]): Promise<readonly Row[]> {
    const options = { timeoutMs: attemptMs, limit: this.#lookupLimit };
    const { rows } = await this.#attempt(() => this.#connection.execute({ sql, args }), options);
    return rows;
  }

  /**
   * Commits all statements or none, once, and answers how many rows each changed. Throws GuardFailedError. An attempt on a server may
   * take `workMs` longer than what its statements weigh, for those that work on much that is in the database already.
   */
  async write(statements: readonly Statement[], workMs = 0): Promise<number[]> {
    if (this.#file === null) return this.#writeMarked(statements, workMs);
    const results = await this.#batch(statements, (endsAtMs) => this.#connection.batch(statements, endsAtMs));
    return results.map(({ rowsAffected }) => rowsAffected);
  }

  /** As {@link write}, for statements that may be carried out twice without harm: on a server it leaves no mark. */
  async writeIdempotent(statements: readonly Statement[]): Promise<void> {
    await this.#batch(statements, (endsAtMs) => this.#connection.batch(statements, endsAtMs));
  }

  /**
   * As {@link writeIdempotent}, for notes that come again and again: on a file no read waits while they are committed, which may take
   * long whenever the system writes back what others have written.
   */
  async writeBeside(statements: readonly Statement[]): Promise<void> {
    const file = this.#file;
    if (file === null) await this.write(statements);
    else await this.#batch(statements, (endsAtMs) => file.batchBeside(statements, endsAtMs));
  }

  /**
   * Lets those come in who wait to write, for whoever writes again and again: a file's lock is nobody's in turn, so that one who takes it
   * back at once may have it for seconds. On a server writers stand in line.
   */
  async giveWay(): Promise<void> {
    if (this.#file !== null) await sleep(lockGapMs);
  }

  /** How often since it was opened an attempt was made again, and an operation was given up for the database's sake. */
  get counters(): { readonly retries: number; readonly failures: number } {
    return this.#counters;
  }

  /** Checkpoints a file's write-ahead log, as far as nobody else reads it, for whoever copies that once the process has ended. */
  async checkpoint(): Promise<void> {
    await this.#file?.checkpoint();
  }

  /** Resolves once nothing of it uses the database any more. */
  async close(): Promise<void> {
    await this.#connection.close();
  }

  /** See {@link MarkedWrite}. That it failed is told once none of its attempts can be carried out any more. */
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

  /** As {@link MarkedWrite.settle}. It waits behind no other write: it holds the server's lock for a moment only. */
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

  /** Throws what the caller is told. */
  async #attempt<T>(operation: Attempt<T>, options: AttemptOptions): Promise<T> {
    try {
      return await this.#tryAgain(operation, options);
    } catch (error) {
      throw this.#givenUp(error);
    }
  }

  /**
   * Tries again, without blocking, what another writer or the network has kept from being done. A file's connection is
   * replaced each time: after SQLITE_BUSY it may acknowledge writes that are rolled back later (libsql-client-ts#352).
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

  /** What the caller is told. */
  #givenUp(error: unknown): unknown {
    const told = translate(error);
    if (told instanceof StorageUnavailableError || told instanceof ConfigurationError) this.#counters.failures += 1;
    return told;
  }

  /** On a server an attempt that takes too long is given up, whether it waits for its turn or for its answer. */
  async #attemptOnce<T>(operation: Attempt<T>, timeoutMs: number, limit: LimitFunction): Promise<T> {
    const endsAtMs = performance.now() + timeoutMs;
    if (this.#file !== null) return operation(endsAtMs);
    const patience = new AbortController();
    const { signal } = patience;
    const given = limit(async () => {
      signal.throwIfAborted();
      return withSignal(signal, () => operation(endsAtMs));
    });
    return within(given, timeoutMs, () => {
      patience.abort(new AttemptTimeoutError('No answer in time.'));
      throw signal.reason;
    });
  }
}

/** How much longer a large batch may take, for the time it is on the wire. */
function sendingMs(statements: readonly Statement[]): number {
  const values = statements.flatMap(({ args = [] }) => args);
  const bytes = values.reduce<number>((sum, value) => sum + bytesOf(value), 0);
  return (bytes / 1_048_576) * attemptPerMebibyteMs;
}

function bytesOf(value: Argument): number {
  return typeof value === 'string' || value instanceof Uint8Array ? Buffer.byteLength(value) : 8;
}
