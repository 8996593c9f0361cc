/** Lets a thread that opens row after row leave the processors to others: it works for a moment, and rests for twice as long. */

const spellMs = 0.25;
const restPerWork = 2;
/** However long the thread itself was kept from a processor: a computer may sleep for hours. */
const longestRestMs = 20;
const nobody = new Int32Array(new SharedArrayBuffer(4));

/** To be called after each row. It blocks the thread, now and then: never where requests are answered or a lock is held. */
export type Rest = () => void;

/** Begins to count what is work. Who had to wait for a processor meanwhile rests the longer for it. */
export function restInBetween(): Rest {
  let sinceMs = performance.now();
  return () => {
    const workedMs = performance.now() - sinceMs;
    if (workedMs < spellMs) return;
    // Nobody ever wakes it, so that this ends with the time.
    Atomics.wait(nobody, 0, 0, Math.min(restPerWork * workedMs, longestRestMs));
    sinceMs = performance.now();
  };
}

export const withoutRest: Rest = () => undefined;
