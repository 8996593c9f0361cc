/** Threads that each do one task and end: the caller that started one gets its result or error, and all are stopped together. */

import type { TransferListItem } from 'node:worker_threads';
import { stopping, Thread } from './thread.ts';

export interface RunningTask<Result> {
  /** Settles once the thread has ended. */
  readonly result: Promise<Result>;
  /** Asks the task to stop at its next step. */
  readonly stop: () => void;
}

export class TaskThreads<Note> {
  readonly #running = new Set<RunningTask<unknown>>();
  #isStopped = false;

  /** For `entry`, what is copied, and what is `moved`, see {@link Thread}. Throws StorageUnavailableError after {@link stop}. */
  start<Result>(
    entry: URL,
    task: unknown,
    onNote?: (note: Note) => void,
    moved?: readonly TransferListItem[],
  ): RunningTask<Result> {
    if (this.#isStopped) throw stopping();
    const thread = new Thread<unknown, Result, Note>(entry);
    const running = {
      result: thread.request(task, moved, onNote).finally(() => thread.close()),
      stop: () => thread.stop(),
    };
    this.#running.add(running);
    void running.result.catch(() => undefined).finally(() => this.#running.delete(running));
    return running;
  }

  /** Permanent; resolves once all threads have ended. Never rejects. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    for (const { stop } of this.#running) stop();
    await Promise.allSettled([...this.#running].map(({ result }) => result));
  }
}
