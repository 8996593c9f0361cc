/** Takes each snapshot, and puts each back, on a thread of its own, so that no request waits while all rows are read or written. */

import type { FileHandle } from 'node:fs/promises';
import type { Actor } from '../audit/event.ts';
import { TaskThreads } from '../task-thread.ts';
import type { SnapshotHeader } from './format.ts';
import type { RestoreMode, RestoreResult } from './restore.ts';
import { Spool } from './spool.ts';
import type { TakenRows } from './take.ts';
import type { SnapshotWork } from './work.ts';

/** What a thread is to do. Its settings are copied to it, keys as KeyObjects; files are moved, so that one thread has each. */
export interface SnapshotTask<Settings> {
  readonly settings: Settings;
  readonly act: TakeAct | RestoreAct;
}

interface TakeAct {
  readonly kind: 'take';
  readonly firstKeyId: string | undefined;
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

/** What the thread says on its way: that another key may be the active one. */
export type SnapshotNote = 'switched';

export interface SnapshotThreadsContext<Settings> {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly settings: Settings;
  readonly onSwitched: () => void;
}

export class SnapshotThreads<Settings> implements SnapshotWork {
  readonly #context: SnapshotThreadsContext<Settings>;
  readonly #threads = new TaskThreads<SnapshotNote>();
  readonly #last: Record<'take' | 'restore', Promise<unknown>> = { take: Promise.resolve(), restore: Promise.resolve() };

  constructor(context: SnapshotThreadsContext<Settings>) {
    this.#context = context;
  }

  async take(firstKeyId?: string, signal?: AbortSignal): Promise<TakenRows> {
    const { header, file } = await this.#inTurn('take', () => this.#run<TakenFile>({ kind: 'take', firstKeyId }, [], signal));
    return { header, spool: new Spool(file) };
  }

  async restore(actor: Actor, { file }: Spool, mode: RestoreMode): Promise<RestoreResult> {
    return this.#inTurn('restore', () => this.#run<RestoreResult>({ kind: 'restore', actor, file, mode }, [file]));
  }

  async close(): Promise<void> {
    await this.#threads.stop();
  }

  /** One of a kind after the other: each thread has some 25 MB, and callers who give up and ask again would pile them up. */
  #inTurn<Result>(kind: 'take' | 'restore', work: () => Promise<Result>): Promise<Result> {
    const result = this.#last[kind].then(work);
    const nothing = (): void => undefined;
    this.#last[kind] = result.then(nothing, nothing);
    return result;
  }

  async #run<Result>(act: TakeAct | RestoreAct, moved: readonly FileHandle[], signal?: AbortSignal): Promise<Result> {
    const { entry, settings, onSwitched } = this.#context;
    const task: SnapshotTask<Settings> = { settings, act };
    try {
      signal?.throwIfAborted();
      const thread = this.#threads.start<Result>(entry, task, onSwitched, moved);
      signal?.addEventListener('abort', () => void thread.stop());
      return thread.result;
    } catch (error) {
      for (const file of moved) await file.close().catch(() => undefined);
      throw error;
    }
  }
}
