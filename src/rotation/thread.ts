/** Runs each rotation on a thread of its own, so that no step of it, however long, keeps a request waiting. */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Level, Logger } from 'pino';
import { type ErrorCode, type ErrorDetails, errorWithCode, VaultError } from '../errors.ts';
import type { RotationProgress, RotationRecord } from '../store/rotations.ts';
import type { DryRun, Rotator, RunningRotation } from './engine.ts';
import type { RotationRequest } from './plan.ts';
import { Progress } from './progress.ts';

/** What the thread is to do. Its settings are copied to it, keys as KeyObjects. */
export interface ThreadTask<Settings> {
  readonly settings: Settings;
  readonly request: RotationRequest;
  readonly isDryRun: boolean;
}

/** What the thread says. The last message is `ended`. */
export type ThreadMessage =
  | { readonly kind: 'log'; readonly level: Level; readonly fields: object; readonly message: string }
  | { readonly kind: 'started'; readonly id: string }
  | { readonly kind: 'progress'; readonly progress: RotationProgress }
  | { readonly kind: 'switched' }
  | { readonly kind: 'ended'; readonly outcome: ThreadOutcome };

export type ThreadOutcome =
  | { readonly kind: 'dry_run'; readonly report: DryRun }
  | { readonly kind: 'rotation'; readonly rotation: RotationRecord }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string; readonly details: ErrorDetails | undefined }
  | { readonly kind: 'unexpected'; readonly error: unknown };

/** The one message to the thread: stop at the next step. */
export const stopMessage = 'stop';

export interface RotationThreadsContext<Settings> {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly settings: Settings;
  readonly logger: Logger;
  readonly onSwitched: () => void;
}

export class RotationThreads<Settings> implements Rotator {
  readonly #context: RotationThreadsContext<Settings>;
  readonly #threads = new Set<RotationThread>();
  #running: RunningRotation | null = null;

  constructor(context: RotationThreadsContext<Settings>) {
    this.#context = context;
  }

  get running(): RunningRotation | null {
    return this.#running;
  }

  async dryRun(request: RotationRequest): Promise<DryRun> {
    const outcome = await this.#begin(request, true).ended;
    if (outcome.kind === 'dry_run') return outcome.report;
    throw toError(outcome);
  }

  async start(request: RotationRequest): Promise<RunningRotation> {
    const thread = this.#begin(request, false);
    const done = thread.ended.then((outcome) => {
      if (outcome.kind === 'rotation') return outcome.rotation;
      throw toError(outcome);
    });
    done.catch(() => undefined);
    const id = await Promise.race([thread.started, done.then(({ id: endedId }) => endedId)]);
    const running = { id, progress: () => thread.progress, done };
    this.#running = running;
    void thread.ended.finally(() => {
      if (this.#running === running) this.#running = null;
    });
    return running;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#threads].map((thread) => thread.stop()));
  }

  #begin(request: RotationRequest, isDryRun: boolean): RotationThread {
    const thread = new RotationThread(this.#context, request, isDryRun);
    this.#threads.add(thread);
    void thread.ended.finally(() => this.#threads.delete(thread));
    return thread;
  }
}

class RotationThread {
  readonly #worker: Worker;
  readonly #context: RotationThreadsContext<unknown>;
  #started: (id: string) => void = () => undefined;
  #outcome: ThreadOutcome | null = null;
  progress: RotationProgress = new Progress().report();
  /** The rotation's id; never where it is refused. */
  readonly started: Promise<string>;
  /** Never rejects. */
  readonly ended: Promise<ThreadOutcome>;

  constructor(context: RotationThreadsContext<unknown>, request: RotationRequest, isDryRun: boolean) {
    const task: ThreadTask<unknown> = { settings: context.settings, request, isDryRun };
    this.#context = context;
    this.#worker = new Worker(context.entry, { workerData: task });
    this.#worker.on('message', (message: ThreadMessage) => this.#receive(message));
    this.started = new Promise((resolve) => {
      this.#started = resolve;
    });
    this.ended = this.#end();
  }

  async stop(): Promise<void> {
    this.#worker.postMessage(stopMessage);
    await this.ended;
  }

  async #end(): Promise<ThreadOutcome> {
    try {
      await once(this.#worker, 'exit');
    } catch (error) {
      return { kind: 'unexpected', error };
    }
    return this.#outcome ?? { kind: 'unexpected', error: new Error('The thread of the rotation ended without a word.') };
  }

  #receive(message: ThreadMessage): void {
    if (message.kind === 'log') this.#context.logger[message.level](message.fields, message.message);
    else if (message.kind === 'started') this.#started(message.id);
    else if (message.kind === 'progress') this.progress = message.progress;
    else if (message.kind === 'switched') this.#context.onSwitched();
    else this.#outcome = message.outcome;
  }
}

/** What an error is on its way to another thread, which its class would not survive. */
export function toOutcome(error: unknown): ThreadOutcome {
  if (!(error instanceof VaultError)) return { kind: 'unexpected', error };
  return { kind: 'refused', code: error.code, message: error.message, details: error.details };
}

function toError(outcome: ThreadOutcome): unknown {
  if (outcome.kind === 'refused') return errorWithCode(outcome.code, outcome.message, outcome.details);
  return outcome.kind === 'unexpected' ? outcome.error : new Error('The thread did something else than it was asked.');
}
