/** Lets callers who want the same thing at the same time share one request, each of whom may abort alone. */

interface Flight<Result> {
  readonly result: Promise<Result>;
  /** Null where the one who began it stays to the end, so that nobody can be the last to leave. */
  readonly controller: AbortController | null;
  passengers: number;
  isOver: boolean;
}

/** `isCurrent` answers whether the key was not {@link Flights.forget forgotten} since the request began. */
type Start<Result> = (signal: AbortSignal | undefined, isCurrent: () => boolean) => Promise<Result>;

export class Flights<Result> {
  readonly #flights = new Map<string, Flight<Result>>();

  /**
   * The result of the request under way for `key`, or of one that `start` begins. The request is aborted once the signal of
   * every caller is.
   */
  async join(key: string, start: Start<Result>, signal: AbortSignal | undefined): Promise<Result> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#begin(key, start, signal !== undefined);
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

  #begin(key: string, start: Start<Result>, mayBeLeft: boolean): Flight<Result> {
    const controller = mayBeLeft ? new AbortController() : null;
    const isCurrent = (): boolean => this.#flights.get(key) === flight;
    const flight: Flight<Result> = { controller, passengers: 0, isOver: false, result: start(controller?.signal, isCurrent) };
    const end = (): void => {
      flight.isOver = true;
    };
    // Each caller hears of a failure; with none left it is nobody's.
    flight.result.then(end, end);
    this.#flights.set(key, flight);
    return flight;
  }

  #end(key: string, flight: Flight<Result>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
    if (!flight.isOver) flight.controller?.abort();
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
