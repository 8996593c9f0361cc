/**
 * One connection to a database file. A batch is one transaction, carried out without interruption. Each statement is compiled
 * once and kept, which the client built on the same package does not do: compiling most of them takes longer than running them.
 */

import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { LibsqlBatchError, LibsqlError } from '@libsql/client';
import NativeDatabase from 'libsql';
import { LRUCache } from 'lru-cache';
import type { Connection, Result, Row, SqlStatement, Value } from './connection.ts';
import { asMayBeDone, translate } from './failures.ts';
import { commitSettings, WriteAheadLog } from './write-ahead-log.ts';

/** How long a write waits for a missing file to return, and how often it looks. */
const awayMs = 1_000;
const awayLookMs = 20;
/** More than the number of different statements that the vault uses. */
const maxKept = 200;

/** By the low byte of SQLite's result code: the codes that `failures.ts` distinguishes. */
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
  /** The number of arguments. Each call must give all: libsql keeps the previous call's value for a missing one. */
  readonly args: number;
  /** The names of the result columns; null if the statement returns no rows. */
  readonly columns: readonly string[] | null;
}

export class FileConnection implements Connection {
  readonly #path: string;
  readonly #lockWaitMs: number;
  readonly #log: WriteAheadLog;
  /** Identity of the file that was opened first, whatever its path is now; null before that. */
  #identity: string | null;
  /**
   * Whether this is the connection with which the process opened the file. Those of other threads leave the write-ahead log to
   * it.
   */
  readonly #isFirst: boolean;
  /** Once true, stays true. */
  #isDisplaced = false;
  readonly #compiled = new LRUCache<string, Compiled>({ max: maxKept });
  #database: NativeDatabase.Database | null;
  #isClosed = false;

  /**
   * Creates the file if there is none. `lockWaitMs`: how long SQLite blocks waiting for another writer. Throws if the file cannot
   * be opened, or does not have the given identity.
   */
  constructor(path: string, lockWaitMs: number, identity?: string, onCheckpointFailed?: () => void) {
    this.#path = path;
    this.#lockWaitMs = lockWaitMs;
    this.#isFirst = identity === undefined;
    this.#identity = identity ?? null;
    this.#database = this.#open();
    this.#identity ??= identityOf(path);
    this.#log = new WriteAheadLog(path, lockWaitMs, onCheckpointFailed);
  }

  /** The identity to pass when this process opens another connection to the same file. */
  get identity(): string | undefined {
    return this.#identity ?? undefined;
  }

  /** Opens the database on first use after {@link reconnect}; if that fails, the next use tries again. */
  get #opened(): NativeDatabase.Database {
    this.#assertOpen();
    this.#database ??= this.#open();
    return this.#database;
  }

  async execute(statement: SqlStatement): Promise<Result> {
    // Throws if the file was replaced; a file that is missing for a moment can still be read.
    this.#checkPlace();
    return this.#run(statement);
  }

  async batch(statements: readonly SqlStatement[], endsAtMs: number): Promise<Result[]> {
    return this.#write(() => this.#commit(statements), endsAtMs);
  }

  /**
   * As {@link batch}, but another thread waits for the disk, and reads go on. For statements that return no rows and may safely
   * run twice: it also throws AttemptTimeoutError if it has not ended by `endsAtMs`, and may still complete later.
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

  /**
   * Drops the connection: a statement that met another writer's lock may keep its old snapshot until it is collected
   * (libsql-client-ts#352).
   */
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
    // Checked before opening, which would create an empty file, and after, in case another file has taken its place in between.
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
      // The package gives no code for a file that does not open.
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
   * Whether the path names the file; false while it names none. Throws if it names another file than the one opened first, since
   * writes to the old one would be lost with it. The write-ahead log now beside the other file is first checkpointed into the old
   * one, wherever that is, which makes it complete; SQLite would otherwise apply the log to the other file and corrupt it.
   */
  #checkPlace(): boolean {
    const identity = identityOf(this.#path);
    if (identity === this.#identity && !this.#isDisplaced) return true;
    if (identity === null && !this.#isDisplaced) return false;
    if (!this.#isDisplaced) this.#leave();
    throw displaced();
  }

  /**
   * Runs once, immediately: whoever opens the other file shares the log from then on, and it must not be touched again. If
   * another reader is using the old file at that moment, the log stays.
   */
  #leave(): void {
    this.#isDisplaced = true;
    if (this.#isFirst) this.#checkpoint();
    this.reconnect();
  }

  /**
   * Moves the write-ahead log into the file, as far as no other reader holds it, if the file is still in place. It uses the open
   * handle: a new one would open whatever is at the path now.
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

  /** Waits until the file is back in place. Throws if it does not return in time, or another takes its place. */
  async #comeBack(): Promise<void> {
    for (const endsAtMs = performance.now() + awayMs; !this.#checkPlace(); await sleep(awayLookMs)) {
      if (performance.now() > endsAtMs) throw cannotOpen('The file is not there.');
    }
  }

  #runAt(index: number, statement: SqlStatement): Result {
    // SQLite itself rolls back when the disk is full or fails.
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

  /** If the rollback fails too, the connection is unusable and is dropped. */
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

/** Converts to the client's error type, so that one table gives the meaning of each code. */
function toLibsqlError(error: unknown): unknown {
  if (!(error instanceof NativeDatabase.SqliteError)) return error;
  const { message, code, rawCode } = error as Error & { readonly code: string; readonly rawCode?: number };
  return new LibsqlError(message, baseCodes[(rawCode ?? 0) & 0xff] ?? 'SQLITE_UNKNOWN', code, rawCode, error);
}
