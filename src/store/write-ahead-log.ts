/**
 * Checkpoints a file's write-ahead log once it is long, on a thread of the native package: reads go on meanwhile, and writes
 * wait without blocking. Best effort: where a checkpoint fails, one after a later write does its work.
 */

import { existsSync, realpathSync, statSync } from 'node:fs';
import PromiseDatabase from 'libsql/promise';
import { within } from '../runtime/within.ts';
import { AttemptTimeoutError } from './failures.ts';

/** From this size it is checkpointed. */
const maxBytes = 4 * 1024 * 1024;

export class WriteAheadLog {
  readonly #databasePath: string;
  readonly #logPath: string;
  readonly #lockWaitMs: number;
  #connection: PromiseDatabase | null = null;
  #underWay: Promise<void> | null = null;

  /** The file is there. `lockWaitMs`: how long a checkpoint waits for another writer, or for readers that need the log. */
  constructor(databasePath: string, lockWaitMs: number) {
    this.#databasePath = databasePath;
    // As SQLite does, which writes it beside the file that a symbolic link names.
    this.#logPath = `${realpathSync(databasePath)}-wal`;
    this.#lockWaitMs = lockWaitMs;
  }

  /**
   * Calls `work`, which begins to write before it returns, when no checkpoint holds the writers' lock: SQLite would wait for it, and block.
   * Throws AttemptTimeoutError where one still does at `endsAtMs`, by `performance.now()`.
   */
  async betweenCheckpoints<T>(work: () => Promise<T>, endsAtMs: number): Promise<T> {
    while (this.#underWay !== null) {
      await within(this.#underWay, endsAtMs - performance.now(), () => {
        throw new AttemptTimeoutError('The write-ahead log is still being checkpointed.');
      });
    }
    return work();
  }

  /** Begins a checkpoint where the log is long and none is under way. */
  checkpointWhereLong(): void {
    if (this.#underWay !== null || this.#bytes() <= maxBytes) return;
    this.#underWay = this.#checkpoint().finally(() => {
      this.#underWay = null;
    });
  }

  /** Resolves when no checkpoint is under way. */
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

  /** Emptied with the writers' lock held, which keeps out commits that might race the checkpoint (the WAL-reset bug, libsql#2271). */
  async #checkpoint(): Promise<void> {
    // Opening it would make an empty one.
    if (!existsSync(this.#databasePath)) return;
    try {
      this.#connection ??= new PromiseDatabase(this.#databasePath, { timeout: this.#lockWaitMs });
      await this.#connection.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      this.#disconnect();
    }
  }

  #disconnect(): void {
    this.#connection?.close();
    this.#connection = null;
  }
}
