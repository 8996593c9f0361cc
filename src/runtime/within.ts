/** Waits for work only as long as it is worth waiting for: leaves no timer behind, and no error that nobody handles. */

/** A timer takes no more, and 25 days are as good as for ever. */
const longestMs = 2 ** 31 - 1;

/** Settles as the work does, or, where that takes longer than `timeoutMs`, as `late` answers or throws. The work itself goes on. */
export async function within<Result, Late>(work: Promise<Result>, timeoutMs: number, late: () => Late): Promise<Result | Late> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.min(Math.max(timeoutMs, 0), longestMs));
  });
  try {
    return await Promise.race([work, timeout.then(late)]);
  } finally {
    clearTimeout(timer);
  }
}
