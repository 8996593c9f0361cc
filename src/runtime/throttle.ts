/** Lets a thread that opens row after row leave processor time to others: it works for a moment, and rests for twice as long. */

const spellMs = 0.25;
const restPerWork = 2;
/** No rest is longer: most of such a long spell was spent waiting for a processor or a database, not working. */
const longestRestMs = 1;
const nobody = new Int32Array(new SharedArrayBuffer(4));

/**
 * To be called after each row. It blocks the thread now and then, so never use it where requests are answered or a lock is held.
 */
export type Throttle = () => void;

/** The first spell of work begins now. The returned function throws the reason of `stopped` once that is aborted. */
export function createThrottle(stopped?: AbortSignal): Throttle {
  let sinceMs = performance.now();
  return () => {
    stopped?.throwIfAborted();
    const workedMs = performance.now() - sinceMs;
    if (workedMs < spellMs) return;
    // Nothing ever notifies it, so the wait always ends by timeout.
    Atomics.wait(nobody, 0, 0, Math.min(restPerWork * workedMs, longestRestMs));
    sinceMs = performance.now();
  };
}

export const unthrottled: Throttle = () => undefined;
