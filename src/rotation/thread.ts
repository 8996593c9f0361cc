/** Runs each rotation on a thread of its own, so that no step of it, however long, keeps a request waiting. */

import type { Level, Logger } from 'pino';
import type { RotationProgress, RotationRecord } from '../store/rotations.ts';
import { TaskThread } from '../task-thread.ts';
import type { DryRun, Rotator, RunningRotation } from './engine.ts';
import type { RotationRequest } from './plan.ts';
import { Progress } from './progress.ts';

/** What the thread is to do. Its settings are copied to it, keys as KeyObjects. */
export interface RotationTask<Settings> {
  readonly settings: Settings;
  readonly request: RotationRequest;
  readonly isDryRun: boolean;
}

/** What the thread says on its way. */
export type RotationNote =
  | { readonly kind: 'log'; readonly level: Level; readonly fields: object; readonly message: string }
  | { readonly kind: 'started'; readonly id: string }
  | { readonly kind: 'progress'; readonly progress: RotationProgress }
  | { readonly kind: 'switched' };

export interface RotationThreadsContext<Settings> {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly onSwitched: () => void;
}

export class RotationThreads<Settings> implements Rotator {
  readonly #context: RotationThreadsContext<Settings>;
  readonly #threads = new Set<TaskThread<unknown, RotationNote>>();
  #running: RunningRotation | null = null;

  constructor(context: RotationThreadsContext<Settings>) {
    this.#context = context;
  }

  get running(): RunningRotation | null {
    return this.#running;
  }

  async dryRun(request: RotationRequest): Promise<DryRun> {
    return this.#begin<DryRun>(request, true).result;
  }

  async start(request: RotationRequest): Promise<RunningRotation> {
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
    await Promise.all([...this.#threads].map((thread) => thread.stop()));
  }

  #begin<Result>(
    request: RotationRequest,
    isDryRun: boolean,
    onNote?: (note: RotationNote) => void,
  ): TaskThread<Result, RotationNote> {
    const { entry, settings, logger, onSwitched } = this.#context;
    const task: RotationTask<Settings> = { settings, request, isDryRun };
    const thread = new TaskThread<Result, RotationNote>(entry, task, (note) => {
      if (note.kind === 'log') logger[note.level](note.fields, note.message);
      else if (note.kind === 'switched') onSwitched();
      else onNote?.(note);
    });
    this.#threads.add(thread);
    void thread.result.catch(() => undefined).finally(() => this.#threads.delete(thread));
    return thread;
  }
}
