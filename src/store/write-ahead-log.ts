/**
 * What waits for a file's disk while nobody should, on a thread of the native package: checkpoints of the write-ahead log once it is long,
 * and commits that no caller waits for. Reads go on meanwhile, and writes wait without blocking. Checkpoints are best effort: where one
 * fails, one after a later write does its work.
 */

import { existsSync, realpathSync, statSync } from 'node:fs';
import { LibsqlError } from '@libsql/client';
import PromiseDatabase from 'libsql/promise';
import { within } from '../runtime/within.ts';
import type { SqlStatement } from './connection.ts';
import { AttemptTimeoutError } from './failures.ts';

/**
 * Of every connection that commits. A commit in the log that is not synced would be a hole in front of the next one, where the sync of that
 * fails and the system forgets what it could not write. A checkpoint at a commit may race another process's (the WAL-reset bug, libsql#2271).
 */
export const commitSettings = 'PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0';

/** From this size it is checkpointed. */
const maxBytes = 4 * 1024 * 1024;

export class WriteAheadLog {
  readonly #databasePath: string;
  readonly #logPath: string;
  readonly #lockWaitMs: number;
  #connection: PromiseDatabase | null = null;
  #underWay: Promise<void> | null = null;

  /** The file is there. `lockWaitMs`: how long that thread waits for another writer, or for readers that need the log. */
  constructor(databasePath: string, lockWaitMs: number) {
    this.#databasePath = databasePath;
    // As SQLite does, which writes it beside the file that a symbolic link names.
    this.#logPath = `${realpathSync(databasePath)}-wal`;
    this.#lockWaitMs = lockWaitMs;
  }

  /**
   * Calls `work`, which begins to write before it returns, when that thread does not hold the writers' lock: SQLite would wait for it, and
   * block. Throws AttemptTimeoutError where it still does at `endsAtMs`, by `performance.now()`.
   */
  async inTurn<T>(work: () => Promise<T>, endsAtMs: number): Promise<T> {
    while (this.#underWay !== null) {
      await within(this.#underWay, endsAtMs - performance.now(), () => {
        throw new AttemptTimeoutError('The disk keeps what was begun before it.');
      });
    }
    return work();
  }

  /** Begins a checkpoint where the log is long and none is under way. */
  checkpointWhereLong(): void {
    if (this.#underWay !== null || this.#bytes() <= maxBytes) return;
    void this.#begin(this.#checkpoint());
  }

  /** In turn. Throws AttemptTimeoutError where it has not ended at `endsAtMs`; it goes on then, and others wait for it. */
  async commit(statements: readonly SqlStatement[], endsAtMs: number): Promise<void> {
    await within(this.#begin(this.#commit(statements)), endsAtMs - performance.now(), () => {
      throw new AttemptTimeoutError('The disk keeps it.');
    });
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#underWay;
  }

  /** Resolves when nothing of it uses the file any more: a process should not end in the middle of native code. */
  async close(): Promise<void> {
    await this.#underWay;
    this.#disconnect();
  }

  /** The log is there only while the database is open, and the file may be away altogether. */
  #bytes(): number {
    try {
      return statSync(this.#logPath, { throwIfNoEntry: false })?.size ?? 0;
    } catch {
      return 0;
    }
  }

  #begin(work: Promise<void>): Promise<void> {
    const ended = work.finally(() => {
      this.#underWay = null;
    });
    this.#underWay = ended.catch(() => undefined);
    return ended;
  }

  /** Emptied with the writers' lock held, which keeps out commits that might race the checkpoint (the WAL-reset bug, libsql#2271). */
  async #checkpoint(): Promise<void> {
    try {
      await this.#opened.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      this.#disconnect();
    }
  }

  /** Compiled before it takes the writers' lock, which it then holds for no longer than the disk takes. */
  async #commit(statements: readonly SqlStatement[]): Promise<void> {
    const connection = this.#opened;
    try {
      const compiled = await Promise.all(statements.map(({ sql }) => connection.prepare(sql)));
      await connection.exec(`${commitSettings}; BEGIN IMMEDIATE`);
      for (const [index, { args = [] }] of statements.entries()) compiled[index].run(args);
      await connection.exec('COMMIT');
    } catch (error) {
      await this.#abandon(connection);
      throw error;
    }
  }

  get #opened(): PromiseDatabase {
    this.#connection ??= this.#open();
    return this.#connection;
  }

  #open(): PromiseDatabase {
    // Opening it would make an empty one.
    if (!existsSync(this.#databasePath)) throw new LibsqlError('The file is not there.', 'SQLITE_CANTOPEN');
    try {
      return new PromiseDatabase(this.#databasePath, { timeout: this.#lockWaitMs });
    } catch {
      throw new LibsqlError('The file does not open.', 'SQLITE_CANTOPEN');
    }
  }

  /** A connection of which a statement failed may hold on to what it saw (libsql-client-ts#352). */
  async #abandon(connection: PromiseDatabase): Promise<void> {
    // Closing it keeps the lock until its statements are collected; SQLite may have rolled back by itself.
    await connection.exec('ROLLBACK').catch(() => undefined);
    this.#disconnect();
  }

  #disconnect(): void {
    this.#connection?.close();
    this.#connection = null;
  }
}
