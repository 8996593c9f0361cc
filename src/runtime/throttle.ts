/** Lets a thread that opens row after row leave the processors to others: it works for a moment, and rests for twice as long. */

const spellMs = 0.25;
const restPerWork = 2;
/** No pause is longer: what took so long was mostly waiting for a processor or a database, and not work. */
const longestRestMs = 1;
const nobody = new Int32Array(new SharedArrayBuffer(4));

/** To be called after each row. It blocks the thread, now and then: never where requests are answered or a lock is held. */
export type Throttle = () => void;

/** Begins to count what is work. What it answers throws the reason of `stopped` once that is aborted. */
export function createThrottle(stopped?: AbortSignal): Throttle {
  let sinceMs = performance.now();
  return () => {
    stopped?.throwIfAborted();
    const workedMs = performance.now() - sinceMs;
    if (workedMs < spellMs) return;
    // Nobody ever wakes it, so that this ends with the time.
    Atomics.wait(nobody, 0, 0, Math.min(restPerWork * workedMs, longestRestMs));
    sinceMs = performance.now();
  };
}

export const unthrottled: Throttle = () => undefined;
