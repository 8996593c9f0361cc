/** Lets callers who want the same thing at the same time share one request, of which each may take leave alone. */

interface Flight<Result> {
  readonly result: Promise<Result>;
  readonly controller: AbortController;
  passengers: number;
}

export class Flights<Result> {
  readonly #flights = new Map<string, Flight<Result>>();

  /**
   * The result of the request under way for `key`, or of one that `start` begins. The request is aborted once the signal of
   * every caller is. `isCurrent` answers whether the key was not {@link forget forgotten} since the request began.
   */
  async join(
    key: string,
    start: (signal: AbortSignal, isCurrent: () => boolean) => Promise<Result>,
    signal: AbortSignal | undefined,
  ): Promise<Result> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#begin(key, start);
    flight.passengers += 1;
    try {
      return await (signal === undefined ? flight.result : until(flight.result, signal));
    } finally {
      flight.passengers -= 1;
      if (flight.passengers === 0) this.#end(key, flight);
    }
  }

  /** Nobody joins the requests under way any more: what they answer may be of yesterday. */
  forget(key?: string): void {
    if (key === undefined) this.#flights.clear();
    else this.#flights.delete(key);
  }

  #begin(key: string, start: (signal: AbortSignal, isCurrent: () => boolean) => Promise<Result>): Flight<Result> {
    const controller = new AbortController();
    const isCurrent = (): boolean => this.#flights.get(key)?.controller === controller;
    const flight = { controller, passengers: 0, result: start(controller.signal, isCurrent) };
    // Each caller hears of it; with none left it is nobody's.
    flight.result.catch(() => undefined);
    this.#flights.set(key, flight);
    return flight;
  }

  #end(key: string, flight: Flight<Result>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
    flight.controller.abort();
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
