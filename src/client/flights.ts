/** Lets concurrent callers of the same thing share one request, which each of them may abort for itself. */

interface Flight<Result> {
  readonly result: Promise<Result>;
  /** Null if the caller that began the request cannot leave, so that the request is never abandoned. */
  readonly controller: AbortController | null;
  passengers: number;
  isOver: boolean;
}

/** `isCurrent` tells whether the key has not been {@link Flights.forget forgotten} since the request began. */
type Start<Result> = (signal: AbortSignal | undefined, isCurrent: () => boolean) => Promise<Result>;

export class Flights<Result> {
  readonly #flights = new Map<string, Flight<Result>>();

  /**
   * The result of the request in flight for `key`, or of a new one begun by `start`. The request is aborted once every caller has
   * aborted.
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

  /** Requests in flight get no more callers: their answers may be outdated. */
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
    // Every waiting caller gets the rejection; without any, it must not count as unhandled.
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
