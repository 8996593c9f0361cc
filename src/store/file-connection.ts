/**
 * One connection to a database file. A batch is one transaction, carried out in one go; a statement is compiled once and kept,
 * which the client on top of the same package does not do: compiling takes longer than most of them run.
 */

import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { LibsqlBatchError, LibsqlError } from '@libsql/client';
import NativeDatabase from 'libsql';
import { LRUCache } from 'lru-cache';
import type { Connection, Result, Row, SqlStatement, Value } from './connection.ts';
import { asMayBeDone, translate } from './failures.ts';
import { commitSettings, WriteAheadLog } from './write-ahead-log.ts';

/** How long a write waits for a file that is away, and how often it looks. */
const awayMs = 1_000;
const awayLookMs = 20;
/** More than the vault's own different statements. */
const maxKept = 200;

/** Of the low byte of SQLite's result codes: what `failures.ts` tells apart. */
const baseCodes: Readonly<Record<number, string>> = {
  1: 'SQLITE_ERROR',
  3: 'SQLITE_PERM',
  5: 'SQLITE_BUSY',
  6: 'SQLITE_LOCKED',
  8: 'SQLITE_READONLY',
  10: 'SQLITE_IOERR',
  11: 'SQLITE_CORRUPT',
  13: 'SQLITE_FULL',
  14: 'SQLITE_CANTOPEN',
  18: 'SQLITE_TOOBIG',
  19: 'SQLITE_CONSTRAINT',
  23: 'SQLITE_AUTH',
  26: 'SQLITE_NOTADB',
};

interface Compiled {
  readonly statement: NativeDatabase.Statement;
  /** How many it is always given: what a call leaves out would be what the call before gave. */
  readonly args: number;
  /** The names of what it answers; null where it answers nothing. */
  readonly columns: readonly string[] | null;
}

export class FileConnection implements Connection {
  readonly #path: string;
  readonly #lockWaitMs: number;
  readonly #log: WriteAheadLog;
  /** Of the file that was opened first, whatever it is called; null before that. */
  #identity: string | null;
  /** Whether the process opened the file with this connection: the others, of threads, leave its log to that one. */
  readonly #isFirst: boolean;
  /** For good. */
  #isDisplaced = false;
  readonly #compiled = new LRUCache<string, Compiled>({ max: maxKept });
  #database: NativeDatabase.Database | null;
  #isClosed = false;

  /**
   * Creates the file where there is none. `lockWaitMs`: how long SQLite waits for another writer, and blocks. Throws where it cannot be
   * opened, or is not the one of that identity.
   */
  constructor(path: string, lockWaitMs: number, identity?: string) {
    this.#path = path;
    this.#lockWaitMs = lockWaitMs;
    this.#isFirst = identity === undefined;
    this.#identity = identity ?? null;
    this.#database = this.#open();
    this.#identity ??= identityOf(path);
    this.#log = new WriteAheadLog(path, lockWaitMs);
  }

  /** What another connection of this process to the same file is to be opened with. */
  get identity(): string | undefined {
    return this.#identity ?? undefined;
  }

  /** Opened by the first use after {@link reconnect}, and again by the next where that fails. */
  get #opened(): NativeDatabase.Database {
    this.#assertOpen();
    this.#database ??= this.#open();
    return this.#database;
  }

  async execute(statement: SqlStatement): Promise<Result> {
    // A file that is away for a moment is still read.
    this.#checkPlace();
    return this.#run(statement);
  }

  async batch(statements: readonly SqlStatement[], endsAtMs: number): Promise<Result[]> {
    return this.#write(() => this.#commit(statements), endsAtMs);
  }

  /**
   * As {@link batch}, but another thread waits for the disk, and reads go on. For statements that answer no rows, and may be carried out
   * twice: it throws AttemptTimeoutError too where it has not ended by `endsAtMs`, and may end later.
   */
  async batchBeside(statements: readonly SqlStatement[], endsAtMs: number): Promise<void> {
    try {
      await this.#write(() => this.#log.commit(statements, endsAtMs), endsAtMs);
    } catch (error) {
      throw toLibsqlError(error);
    }
  }

  async #write<T>(commit: () => T | Promise<T>, endsAtMs: number): Promise<T> {
    const result = await this.#log.inTurn(() => this.#writeInPlace(commit), endsAtMs);
    this.#log.checkpointWhereLong();
    return result;
  }

  async #writeInPlace<T>(commit: () => T | Promise<T>): Promise<T> {
    this.#assertOpen();
    if (!this.#checkPlace()) await this.#comeBack();
    const result = await commit();
    try {
      if (!this.#checkPlace()) await this.#comeBack();
    } catch (error) {
      // It is in the file, and nobody knows whether that comes back.
      throw asMayBeDone(translate(error));
    }
    return result;
  }

  #commit(statements: readonly SqlStatement[]): Result[] {
    this.#run({ sql: 'BEGIN IMMEDIATE' });
    try {
      const results = statements.map((statement, index) => this.#runAt(index, statement));
      this.#run({ sql: 'COMMIT' });
      return results;
    } catch (error) {
      if (this.#database?.inTransaction) this.#rollBack();
      throw error;
    }
  }

  /** Begins anew: a statement that met another writer's lock may hold on to what it saw until it is collected (libsql-client-ts#352). */
  reconnect(): void {
    this.#compiled.clear();
    this.#database?.close();
    this.#database = null;
  }

  async close(): Promise<void> {
    await this.#log.close();
    this.reconnect();
    this.#isClosed = true;
  }

  #open(): NativeDatabase.Database {
    // Before it is opened, which would make an empty one; and after, in case another has come between.
    this.#assertInPlace();
    let database: NativeDatabase.Database | undefined;
    try {
      database = new NativeDatabase(this.#path, { timeout: this.#lockWaitMs });
      this.#assertInPlace();
      database.defaultSafeIntegers(true);
      database.exec(commitSettings);
      return database;
    } catch (error) {
      database?.close();
      if (error instanceof LibsqlError) throw error;
      // Of a file that does not open the package says no code.
      throw error instanceof NativeDatabase.SqliteError ? toLibsqlError(error) : cannotOpen('The file does not open.');
    }
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new LibsqlError('The connection is closed.', 'SQLITE_MISUSE');
  }

  #assertInPlace(): void {
    const identity = this.#identity === null ? null : identityOf(this.#path);
    if (identity !== this.#identity) throw identity === null ? cannotOpen('The file is not there.') : displaced();
  }

  /**
   * Whether the path names the file; false while it names none. Throws where it names another than was opened first: what is written
   * to that one goes with it. The write-ahead log that lies beside the other now is checkpointed into the one that it belongs to, which
   * is whole then, wherever it is; SQLite would take it for the other's, and spoil that.
   */
  #checkPlace(): boolean {
    const identity = identityOf(this.#path);
    if (identity === this.#identity && !this.#isDisplaced) return true;
    if (identity === null && !this.#isDisplaced) return false;
    if (!this.#isDisplaced) this.#leave();
    throw displaced();
  }

  /**
   * Once and at once: whoever opens the other file shares its log from then on, which is not to be touched again. Where somebody else
   * reads the old one just now, the log stays.
   */
  #leave(): void {
    this.#isDisplaced = true;
    if (this.#isFirst) this.#checkpoint();
    this.reconnect();
  }

  /**
   * Brings what is in the log into the file, as far as nobody else reads it, where the file is still in its place: by the handle that is
   * open, since another would open what is there.
   */
  async checkpoint(): Promise<void> {
    await this.#log.settled();
    if (!this.#isDisplaced && identityOf(this.#path) === this.#identity) this.#checkpoint();
  }

  #checkpoint(): void {
    try {
      this.#database?.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      // Best effort.
    }
  }

  /** Waits until the file is in its place again. Throws where it does not come, or another does. */
  async #comeBack(): Promise<void> {
    for (const endsAtMs = performance.now() + awayMs; !this.#checkPlace(); await sleep(awayLookMs)) {
      if (performance.now() > endsAtMs) throw cannotOpen('The file is not there.');
    }
  }

  #runAt(index: number, statement: SqlStatement): Result {
    // SQLite rolls back by itself where the disk is full or fails.
    if (this.#database?.inTransaction !== true)
      throw new LibsqlBatchError('The transaction has ended.', index, 'TRANSACTION_CLOSED');
    try {
      return this.#run(statement);
    } catch (error) {
      if (!(error instanceof LibsqlError)) throw error;
      throw new LibsqlBatchError(error.message, index, error.code, error.extendedCode, error.rawCode, error);
    }
  }

  #run({ sql, args = [] }: SqlStatement): Result {
    try {
      const { statement, columns, args: count } = this.#compile(sql, args.length);
      if (args.length !== count) throw new TypeError(`The statement takes ${count} argument(s), not ${args.length}.`);
      if (columns === null) return { rows: [], rowsAffected: statement.run(args).changes };
      return { rows: (statement.all(args) as Value[][]).map((values) => toRow(columns, values)), rowsAffected: 0 };
    } catch (error) {
      throw toLibsqlError(error);
    }
  }

  #compile(sql: string, args: number): Compiled {
    const kept = this.#compiled.get(sql);
    if (kept !== undefined) return kept;
    const statement = this.#opened.prepare(sql);
    const columns = statement.reader ? statement.raw().columns() : null;
    const compiled = { statement, args, columns: columns?.map(({ name }) => name) ?? null };
    this.#compiled.set(sql, compiled);
    return compiled;
  }

  /** Where that fails too, the connection is of no more use. */
  #rollBack(): void {
    try {
      this.#run({ sql: 'ROLLBACK' });
    } catch {
      this.reconnect();
    }
  }
}

function identityOf(path: string): string | null {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

function displaced(): LibsqlError {
  return new LibsqlError('Another file has taken its place.', 'SQLITE_READONLY_DBMOVED');
}

function cannotOpen(message: string): LibsqlError {
  return new LibsqlError(message, 'SQLITE_CANTOPEN');
}

function toRow(columns: readonly string[], values: readonly Value[]): Row {
  const row: Row = {};
  for (const [index, column] of columns.entries()) row[column] = values[index] ?? null;
  return row;
}

/** In the client's terms, so that one table says what each means. */
function toLibsqlError(error: unknown): unknown {
  if (!(error instanceof NativeDatabase.SqliteError)) return error;
  const { message, code, rawCode } = error as Error & { readonly code: string; readonly rawCode?: number };
  return new LibsqlError(message, baseCodes[(rawCode ?? 0) & 0xff] ?? 'SQLITE_UNKNOWN', code, rawCode, error);
}
