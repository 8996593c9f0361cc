/** A thread that answers requests: each gets its own response or an error of its original class, even if the thread dies. */

import { parentPort, type TransferListItem, Worker, type WorkerOptions } from 'node:worker_threads';
import { type ErrorCode, type ErrorDetails, errorWithCode, StorageUnavailableError, VaultError } from '../errors.ts';

/** Sent to the thread: a request, or an order to stop its work. */
type ToThread<Request> = { readonly number: number; readonly request: Request } | 'stop';

/** Sent by the thread about the request with this number: notes during the work, then the outcome. */
type FromThread<Response, Note> = { readonly number: number } & (
  | { readonly note: Note }
  | { readonly outcome: Outcome<Response> }
);

type Outcome<Response> =
  | { readonly kind: 'done'; readonly response: Response }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string; readonly details: ErrorDetails | undefined }
  | { readonly kind: 'unexpected'; readonly error: unknown };

interface Pending<Response, Note> {
  readonly onNote: (note: Note) => void;
  readonly resolve: (response: Response) => void;
  readonly reject: (error: unknown) => void;
}

export class Thread<Request, Response, Note = never> {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending<Response, Note>>();
  #sent = 0;
  #failure: unknown = null;

  /** `entry` is a compiled file that calls {@link answerRequests}. */
  constructor(entry: URL, options: WorkerOptions = {}) {
    this.#worker = new Worker(entry, options);
    this.#worker.on('message', (message: FromThread<Response, Note>) => this.#receive(message));
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('messageerror', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('A thread ended before its work.')));
  }

  /** Whether the thread has died or was closed, and answers no more requests. */
  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /**
   * Rejects with the error that the thread threw for this request, or that it died of. Requests and responses are copied, keys as
   * KeyObjects; whatever is in `moved` is transferred, and no longer usable here.
   */
  request(
    request: Request,
    moved: readonly TransferListItem[] = [],
    onNote: (note: Note) => void = () => undefined,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      const number = this.#sent;
      this.#sent += 1;
      // Throws if something cannot be copied; then nothing is left pending.
      this.#worker.postMessage({ number, request } satisfies ToThread<Request>, moved);
      this.#pending.set(number, { onNote, resolve, reject });
    });
  }

  /** Asks the thread to stop its work at the next step; the pending requests then reject. */
  stop(): void {
    this.#worker.postMessage('stop' satisfies ToThread<Request>);
  }

  /** Ends the thread whatever it is doing, and resolves once it has ended. */
  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #receive(message: FromThread<Response, Note>): void {
    const pending = this.#pending.get(message.number);
    if ('note' in message) {
      pending?.onNote(message.note);
      return;
    }
    this.#pending.delete(message.number);
    if (message.outcome.kind === 'done') pending?.resolve(message.outcome.response);
    else pending?.reject(toError(message.outcome));
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    void this.#worker.terminate();
  }
}

export interface RequestControl<Note> {
  /** Aborted when the thread is to stop. */
  readonly stopped: AbortSignal;
  readonly tell: (note: Note) => void;
}

/**
 * To be called once, by the thread. Whatever a request opened must be closed before its response: nothing else is waited for. The
 * parts of a response that `movedOf` lists are transferred to the requester, not copied.
 */
export function answerRequests<Request, Response, Note = never>(
  respond: (request: Request, control: RequestControl<Note>) => Response | Promise<Response>,
  movedOf: (response: Response) => readonly TransferListItem[] = () => [],
): void {
  const port = parentPort;
  if (port === null) throw new Error('Only a thread answers requests.');
  const stop = new AbortController();
  const answer = async (number: number, request: Request): Promise<void> => {
    const post = (message: FromThread<Response, Note>, moved: readonly TransferListItem[] = []): void =>
      port.postMessage(message, moved);
    const outcome = await outcomeOf(() => respond(request, { stopped: stop.signal, tell: (note) => post({ number, note }) }));
    post({ number, outcome }, outcome.kind === 'done' ? movedOf(outcome.response) : []);
  };
  port.on('message', (message: ToThread<Request>) => {
    if (message === 'stop') stop.abort(stopping());
    else void answer(message.number, message.request);
  });
  // A request that cannot be deserialized has no number to respond to: the thread ends, which rejects all pending requests.
  port.on('messageerror', (error) => {
    throw error;
  });
}

export function stopping(): StorageUnavailableError {
  return new StorageUnavailableError('The vault is stopping.');
}

/** Errors lose their class on the way to another thread, so a VaultError is sent as its code. */
async function outcomeOf<Response>(respond: () => Response | Promise<Response>): Promise<Outcome<Response>> {
  try {
    return { kind: 'done', response: await respond() };
  } catch (error) {
    if (!(error instanceof VaultError)) return { kind: 'unexpected', error };
    return { kind: 'refused', code: error.code, message: error.message, details: error.details };
  }
}

function toError(outcome: Exclude<Outcome<unknown>, { kind: 'done' }>): unknown {
  return outcome.kind === 'refused' ? errorWithCode(outcome.code, outcome.message, outcome.details) : outcome.error;
}
