/**
 * Disk work that must not block, on a thread of the native package: checkpoints of a long write-ahead log, and commits that no
 * caller waits for. Reads go on meanwhile, and writes wait without blocking. Checkpoints are best effort: if one fails, one after
 * a later write does its work.
 */

import { existsSync, realpathSync, statSync } from 'node:fs';
import { LibsqlError } from '@libsql/client';
import PromiseDatabase from 'libsql/promise';
import { withTimeout } from '../runtime/with-timeout.ts';
import type { SqlStatement } from './connection.ts';
import { AttemptTimeoutError } from './failures.ts';

/**
 * The settings of every connection that commits. An unsynced commit would become a hole in the log if the sync of the next one
 * fails and the system discards what it could not write; recovery stops at a hole. An automatic checkpoint at a commit may race
 * another process's (the WAL-reset bug, libsql#2271). What is deleted or replaced is overwritten: in a free page, a later copy of
 * the file would still hold it, under a key that may have leaked since.
 */
export const commitSettings = 'PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA secure_delete = ON';

/** The log size that triggers a checkpoint. */
const maxBytes = 4 * 1024 * 1024;

export class WriteAheadLog {
  readonly #databasePath: string;
  readonly #logPath: string;
  readonly #lockWaitMs: number;
  readonly #onCheckpointFailed: () => void;
  #connection: PromiseDatabase | null = null;
  #underWay: Promise<void> | null = null;

  /** The file must exist. `lockWaitMs`: how long the thread waits for another writer, or for readers that need the log. */
  constructor(databasePath: string, lockWaitMs: number, onCheckpointFailed: () => void = () => undefined) {
    this.#databasePath = databasePath;
    // SQLite resolves symbolic links, and keeps the log beside the file itself.
    this.#logPath = `${realpathSync(databasePath)}-wal`;
    this.#lockWaitMs = lockWaitMs;
    this.#onCheckpointFailed = onCheckpointFailed;
  }

  /**
   * Calls `work`, which must begin its write before it returns, once the thread does not hold the write lock: SQLite would block
   * while waiting for it. Throws AttemptTimeoutError if the thread still holds it at `endsAtMs`, by `performance.now()`.
   */
  async inTurn<T>(work: () => Promise<T>, endsAtMs: number): Promise<T> {
    while (this.#underWay !== null) {
      await withTimeout(this.#underWay, endsAtMs - performance.now(), () => {
        throw new AttemptTimeoutError('The disk keeps what was begun before it.');
      });
    }
    return work();
  }

  /** Begins a checkpoint if the log is long and none is under way. */
  checkpointWhereLong(): void {
    if (this.#underWay !== null || this.#bytes() <= maxBytes) return;
    void this.#begin(this.#checkpoint());
  }

  /**
   * Call within {@link inTurn}. Throws AttemptTimeoutError if it has not ended by `endsAtMs`; it then continues, and later writes
   * wait for it.
   */
  async commit(statements: readonly SqlStatement[], endsAtMs: number): Promise<void> {
    await withTimeout(this.#begin(this.#commit(statements)), endsAtMs - performance.now(), () => {
      throw new AttemptTimeoutError('The disk keeps it.');
    });
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#underWay;
  }

  /** Resolves once this object no longer uses the file: a process should not exit in the middle of native code. */
  async close(): Promise<void> {
    await this.#underWay;
    this.#disconnect();
  }

  /** The log exists only while the database is open, and the file itself may be missing. */
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

  /** TRUNCATE holds the write lock, which keeps out commits that might race the checkpoint (the WAL-reset bug, libsql#2271). */
  async #checkpoint(): Promise<void> {
    try {
      await this.#opened.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      this.#onCheckpointFailed();
      this.#disconnect();
    }
  }

  /** Compiles before taking the write lock, and so holds it for no longer than the disk takes. */
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
    // Opening a missing file would create an empty one.
    if (!existsSync(this.#databasePath)) throw new LibsqlError('The file is not there.', 'SQLITE_CANTOPEN');
    try {
      return new PromiseDatabase(this.#databasePath, { timeout: this.#lockWaitMs });
    } catch {
      throw new LibsqlError('The file does not open.', 'SQLITE_CANTOPEN');
    }
  }

  /** After a failed statement a connection may keep its old snapshot (libsql-client-ts#352). */
  async #abandon(connection: PromiseDatabase): Promise<void> {
    // Closing the connection keeps the lock until its statements are collected, so roll back first. SQLite may already have done
    // so.
    await connection.exec('ROLLBACK').catch(() => undefined);
    this.#disconnect();
  }

  #disconnect(): void {
    this.#connection?.close();
    this.#connection = null;
  }
}
