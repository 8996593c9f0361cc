/** A thread that does one task and ends: whoever started it gets its result or its error, also where the thread dies. */

import { once } from 'node:events';
import { parentPort, type TransferListItem, Worker, workerData } from 'node:worker_threads';
import { type ErrorCode, type ErrorDetails, errorWithCode, StorageUnavailableError, VaultError } from '../errors.ts';

/** What the thread says: notes on its way, and at last the outcome. */
type Message<Result, Note> = { readonly note: Note } | { readonly outcome: Outcome<Result> };

type Outcome<Result> =
  | { readonly kind: 'done'; readonly result: Result }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string; readonly details: ErrorDetails | undefined }
  | { readonly kind: 'unexpected'; readonly error: unknown };

/** The one message to the thread. */
const stopMessage = 'stop';

class TaskThread<Result, Note = never> {
  readonly #worker: Worker;
  #outcome: Outcome<Result> | null = null;
  /** Rejects with what the task threw, as an error of the same kind, or with what the thread has died of. */
  readonly result: Promise<Result>;

  /** `entry` is a compiled file that calls {@link doTask}; `task` is copied to it, keys as KeyObjects, but for what is `moved`. */
  constructor(
    entry: URL,
    task: unknown,
    onNote: (note: Note) => void = () => undefined,
    moved: readonly TransferListItem[] = [],
  ) {
    this.#worker = new Worker(entry, { workerData: task, transferList: [...moved] });
    this.#worker.on('message', (message: Message<Result, Note>) => {
      if ('note' in message) onNote(message.note);
      else this.#outcome = message.outcome;
    });
    this.result = this.#end();
    this.result.catch(() => undefined);
  }

  /** Asks the thread to stop at its next step, and resolves once it has ended. Never rejects. */
  async stop(): Promise<void> {
    this.#worker.postMessage(stopMessage);
    await this.result.catch(() => undefined);
  }

  async #end(): Promise<Result> {
    await once(this.#worker, 'exit');
    if (this.#outcome === null) throw new Error('A thread ended without a word.');
    if (this.#outcome.kind === 'done') return this.#outcome.result;
    throw toError(this.#outcome);
  }
}

/** Those that are at work, each on its one task, and end together. */
export class TaskThreads<Note> {
  readonly #threads = new Set<TaskThread<unknown, Note>>();
  #isStopped = false;

  /** Takes what {@link TaskThread} does. Throws StorageUnavailableError once they have been stopped. */
  start<Result>(...given: ConstructorParameters<typeof TaskThread<Result, Note>>): TaskThread<Result, Note> {
    if (this.#isStopped) throw stopping();
    const thread = new TaskThread<Result, Note>(...given);
    this.#threads.add(thread);
    void thread.result.catch(() => undefined).finally(() => this.#threads.delete(thread));
    return thread;
  }

  /** For good. Never rejects. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all([...this.#threads].map((thread) => thread.stop()));
  }
}

export interface TaskControl<Note> {
  readonly stopped: AbortSignal;
  readonly tell: (note: Note) => void;
}

/**
 * To be called by the thread, once. What `work` has opened, it closes before it ends: nothing else is waited for. Its result is
 * copied, but for what is `moved`.
 */
export async function doTask<Task, Result, Note = never>(
  work: (task: Task, control: TaskControl<Note>) => Promise<Result>,
  moved: (result: Result) => readonly TransferListItem[] = () => [],
): Promise<void> {
  const send = (message: Message<Result, Note>, transferList: readonly TransferListItem[] = []): void =>
    parentPort?.postMessage(message, transferList);
  const stop = new AbortController();
  parentPort?.on('message', (message) => {
    if (message === stopMessage) stop.abort(stopping());
  });
  const outcome = await outcomeOf(() => work(workerData as Task, { stopped: stop.signal, tell: (note) => send({ note }) }));
  send({ outcome }, outcome.kind === 'done' ? moved(outcome.result) : []);
  parentPort?.close();
}

function stopping(): StorageUnavailableError {
  return new StorageUnavailableError('The vault is stopping.');
}

/** An error on its way to another thread is no longer of its class. */
async function outcomeOf<Result>(work: () => Promise<Result>): Promise<Outcome<Result>> {
  try {
    return { kind: 'done', result: await work() };
  } catch (error) {
    if (!(error instanceof VaultError)) return { kind: 'unexpected', error };
    return { kind: 'refused', code: error.code, message: error.message, details: error.details };
  }
}

function toError(outcome: Exclude<Outcome<unknown>, { kind: 'done' }>): unknown {
  return outcome.kind === 'refused' ? errorWithCode(outcome.code, outcome.message, outcome.details) : outcome.error;
}
