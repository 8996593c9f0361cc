/**
 * Where snapshots are taken and restored: on this thread, or on one of its own for each, so that no request waits while all rows
 * are read or written.
 */

import type { FileHandle } from 'node:fs/promises';
import pLimit from 'p-limit';
import type { Actor } from '../audit/event.ts';
import type { ThreadSettings } from '../config.ts';
import { TaskThreads } from '../runtime/task-threads.ts';
import type { SnapshotHeader } from './format.ts';
import { type RestoreContext, type RestoreMode, type RestoreResult, restoreSnapshot } from './restore.ts';
import { Spool } from './spool.ts';
import { type TakenRows, takeSnapshot } from './take.ts';

export interface SnapshotWork {
  /** As {@link takeSnapshot}. `signal` is aborted when nobody waits for the result. */
  take(signal?: AbortSignal): Promise<TakenRows>;
  /**
   * As {@link restoreSnapshot}. Consumes the spool. `signal` is aborted when nobody waits for the result: then nothing more is
   * written.
   */
  restore(actor: Actor, spool: Spool, mode: RestoreMode, signal?: AbortSignal): Promise<RestoreResult>;
  /** Ends the work in flight at its next row, with nothing written; a restore whose last transaction has begun still commits. */
  close(): Promise<void>;
}

export function workOnSnapshotsHere(context: RestoreContext): SnapshotWork {
  return {
    take: () => takeSnapshot(context),
    restore: (actor, spool, mode) => restoreSnapshot(context, actor, spool, mode).finally(() => spool.close()),
    close: async () => undefined,
  };
}

/** A task of the thread. Its settings are copied, keys as KeyObjects; files are transferred, so that one thread owns each. */
export interface SnapshotTask {
  readonly settings: ThreadSettings;
  readonly act: TakeAct | RestoreAct;
}

interface TakeAct {
  readonly kind: 'take';
}

interface RestoreAct {
  readonly kind: 'restore';
  readonly actor: Actor;
  readonly file: FileHandle;
  readonly mode: RestoreMode;
}

export interface TakenFile {
  readonly header: SnapshotHeader;
  readonly file: FileHandle;
}

/** What the thread reports while it works: another key may have become active. */
export type SnapshotNote = 'switched';

export interface SnapshotThreadsContext {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly settings: ThreadSettings;
  readonly onSwitched: () => void;
}

export class SnapshotThreads implements SnapshotWork {
  readonly #context: SnapshotThreadsContext;
  readonly #threads = new TaskThreads<SnapshotNote>();
  /** One of each kind at a time: a thread takes some 25 MB, and callers that give up and retry would pile them up. */
  readonly #inTurn = { take: pLimit(1), restore: pLimit(1) };

  constructor(context: SnapshotThreadsContext) {
    this.#context = context;
  }

  async take(signal?: AbortSignal): Promise<TakenRows> {
    const { header, file } = await this.#inTurn.take(() => this.#run<TakenFile>({ kind: 'take' }, [], signal));
    return { header, spool: new Spool(file) };
  }

  async restore(actor: Actor, { file }: Spool, mode: RestoreMode, signal?: AbortSignal): Promise<RestoreResult> {
    return this.#inTurn.restore(() => this.#run<RestoreResult>({ kind: 'restore', actor, file, mode }, [file], signal));
  }

  async close(): Promise<void> {
    await this.#threads.stop();
  }

  async #run<Result>(act: TakeAct | RestoreAct, moved: readonly FileHandle[], signal?: AbortSignal): Promise<Result> {
    const { entry, settings, onSwitched } = this.#context;
    const task: SnapshotTask = { settings, act };
    try {
      signal?.throwIfAborted();
      const thread = this.#threads.start<Result>(entry, task, onSwitched, moved);
      signal?.addEventListener('abort', () => thread.stop());
      return thread.result;
    } catch (error) {
      for (const file of moved) await file.close().catch(() => undefined);
      throw error;
    }
  }
}
