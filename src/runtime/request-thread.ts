/** A thread that answers requests: each gets its own response or an error, also where the thread dies. */

import { parentPort, Worker, type WorkerOptions } from 'node:worker_threads';

interface Numbered<Request> {
  readonly number: number;
  readonly request: Request;
}

type Reply<Response> = { readonly number: number } & ({ readonly response: Response } | { readonly error: unknown });

interface Pending<Response> {
  readonly resolve: (response: Response) => void;
  readonly reject: (error: unknown) => void;
}

export class RequestThread<Request, Response> {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending<Response>>();
  #sent = 0;
  #failure: unknown = null;

  /** `entry` is a compiled file that calls {@link answerRequests}. */
  constructor(entry: URL, options: WorkerOptions) {
    this.#worker = new Worker(entry, options);
    this.#worker.on('message', (reply: Reply<Response>) => {
      const pending = this.#pending.get(reply.number);
      this.#pending.delete(reply.number);
      if ('response' in reply) pending?.resolve(reply.response);
      else pending?.reject(reply.error);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('messageerror', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('A thread ended before its work.')));
  }

  /** Whether it has died, or was closed: it answers nothing more. */
  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /**
   * Rejects with what answering it threw, or with what the thread has died of. What goes there and back is copied, but for what is
   * `moved`, which is gone here.
   */
  request(request: Request, moved: readonly ArrayBuffer[] = []): Promise<Response> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      const number = this.#sent;
      this.#sent += 1;
      // Throws what cannot be copied; then nothing is waited for.
      this.#worker.postMessage({ number, request } satisfies Numbered<Request>, moved);
      this.#pending.set(number, { resolve, reject });
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    void this.#worker.terminate();
  }
}

/** To be called by the thread. What `movedOf` names of a response is moved to whoever asked, and not copied. */
export function answerRequests<Request, Response>(
  respond: (request: Request) => Response,
  movedOf: (response: Response) => readonly ArrayBuffer[] = () => [],
): void {
  parentPort?.on('message', ({ number, request }: Numbered<Request>) => {
    const reply = replyTo(request, respond);
    parentPort?.postMessage({ number, ...reply } satisfies Reply<Response>, 'response' in reply ? movedOf(reply.response) : []);
  });
  // A request that cannot be read has no number to respond to: all that wait are told by the end of the thread.
  parentPort?.on('messageerror', (error) => {
    throw error;
  });
}

function replyTo<Request, Response>(
  request: Request,
  respond: (request: Request) => Response,
): { response: Response } | { error: unknown } {
  try {
    return { response: respond(request) };
  } catch (error) {
    return { error };
  }
}
