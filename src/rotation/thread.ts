/** Runs each rotation on a thread of its own, so that no step of it, however long, delays a request. */

import pLimit from 'p-limit';
import type { Level, Logger } from 'pino';
import type { ThreadSettings } from '../config.ts';
import { TaskThreads } from '../runtime/task-threads.ts';
import type { RotationProgress, RotationRecord } from '../store/rotation-record.ts';
import type { DryRun, DryRunWatch, Rotator, RunningRotation } from './engine.ts';
import type { RotationRequest } from './plan.ts';
import { Progress } from './progress.ts';

/** A task of the thread. Its settings are copied, keys as KeyObjects. */
export interface RotationTask {
  readonly settings: ThreadSettings;
  readonly request: RotationRequest;
  readonly isDryRun: boolean;
}

/** What the thread reports while it works. */
export type RotationNote =
  | { readonly kind: 'log'; readonly level: Level; readonly fields: object; readonly message: string }
  | { readonly kind: 'started'; readonly id: string }
  | { readonly kind: 'progress'; readonly progress: RotationProgress }
  | { readonly kind: 'switched' };

export interface RotationThreadsContext {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly settings: ThreadSettings;
  readonly logger: Logger;
  readonly onSwitched: () => void;
}

export class RotationThreads implements Rotator {
  readonly #context: RotationThreadsContext;
  readonly #threads = new TaskThreads<RotationNote>();
  /** One at a time, so that repeated calls do not fill memory with threads; a start counts until the rotation has begun. */
  readonly #inTurn = { dryRun: pLimit(1), start: pLimit(1) };
  #running: RunningRotation | null = null;

  constructor(context: RotationThreadsContext) {
    this.#context = context;
  }

  get running(): RunningRotation | null {
    return this.#running;
  }

  async dryRun(request: RotationRequest, { signal }: DryRunWatch = {}): Promise<DryRun> {
    return this.#inTurn.dryRun(async () => {
      signal?.throwIfAborted();
      const thread = this.#begin<DryRun>(request, true);
      signal?.addEventListener('abort', () => thread.stop());
      return thread.result;
    });
  }

  async start(request: RotationRequest): Promise<RunningRotation> {
    return this.#inTurn.start(() => this.#start(request));
  }

  async #start(request: RotationRequest): Promise<RunningRotation> {
    let progress = new Progress().report();
    let noteId: (id: string) => void = () => undefined;
    const started = new Promise<string>((resolve) => {
      noteId = resolve;
    });
    const { result: done } = this.#begin<RotationRecord>(request, false, (note) => {
      if (note.kind === 'started') noteId(note.id);
      else if (note.kind === 'progress') progress = note.progress;
    });
    const id = await Promise.race([started, done.then(({ id: endedId }) => endedId)]);
    const running = { id, progress: () => progress, done };
    this.#running = running;
    void done
      .catch(() => undefined)
      .finally(() => {
        if (this.#running === running) this.#running = null;
      });
    return running;
  }

  async close(): Promise<void> {
    await this.#threads.stop();
  }

  #begin<Result>(request: RotationRequest, isDryRun: boolean, onNote?: (note: RotationNote) => void) {
    const { entry, settings, logger, onSwitched } = this.#context;
    const task: RotationTask = { settings, request, isDryRun };
    return this.#threads.start<Result>(entry, task, (note) => {
      if (note.kind === 'log') logger[note.level](note.fields, note.message);
      else if (note.kind === 'switched') onSwitched();
      else onNote?.(note);
    });
  }
}
