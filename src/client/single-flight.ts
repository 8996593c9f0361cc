/** Lets concurrent callers of the same thing share one request, which each of them may abort for itself. */

interface SharedRequest<Result> {
  readonly result: Promise<Result>;
  /** Null if the caller that began the request cannot leave, so that the request is never abandoned. */
  readonly controller: AbortController | null;
  callers: number;
  isOver: boolean;
}

/** `isCurrent` tells whether the key has not been {@link SingleFlight.forget forgotten} since the request began. */
type Start<Result> = (signal: AbortSignal | undefined, isCurrent: () => boolean) => Promise<Result>;

export class SingleFlight<Result> {
  readonly #requests = new Map<string, SharedRequest<Result>>();

  /**
   * The result of the request in flight for `key`, or of a new one begun by `start`. The request is aborted once every caller has
   * aborted.
   */
  async join(key: string, start: Start<Result>, signal: AbortSignal | undefined): Promise<Result> {
    signal?.throwIfAborted();
    const request = this.#requests.get(key) ?? this.#begin(key, start, signal !== undefined);
    request.callers += 1;
    try {
      return await (signal === undefined ? request.result : until(request.result, signal));
    } finally {
      request.callers -= 1;
      if (request.callers === 0) this.#end(key, request);
    }
  }

  /** Requests in flight get no more callers: their answers may be outdated. */
  forget(key?: string): void {
    if (key === undefined) this.#requests.clear();
    else this.#requests.delete(key);
  }

  #begin(key: string, start: Start<Result>, mayBeLeft: boolean): SharedRequest<Result> {
    const controller = mayBeLeft ? new AbortController() : null;
    const isCurrent = (): boolean => this.#requests.get(key) === request;
    const request: SharedRequest<Result> = {
      controller,
      callers: 0,
      isOver: false,
      result: start(controller?.signal, isCurrent),
    };
    const end = (): void => {
      request.isOver = true;
    };
    // Every waiting caller gets the rejection; without any, it must not count as unhandled.
    request.result.then(end, end);
    this.#requests.set(key, request);
    return request;
  }

  #end(key: string, request: SharedRequest<Result>): void {
    if (this.#requests.get(key) === request) this.#requests.delete(key);
    if (!request.isOver) request.controller?.abort();
  }
}

/** Settles as the promise does, or rejects with the signal's reason, whichever comes first; leaves no listener behind. */
async function until<Result>(promise: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
