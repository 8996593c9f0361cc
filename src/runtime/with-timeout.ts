/** Waits for work up to a time limit, and leaves behind no timer and no unhandled rejection. */

/** The longest delay that a timer accepts; 25 days are as good as forever. */
const longestMs = 2 ** 31 - 1;

/** Settles as the work does, or, after `timeoutMs`, as `onTimeout` returns or throws. The work itself goes on. */
export async function withTimeout<Result, Late>(
  work: Promise<Result>,
  timeoutMs: number,
  onTimeout: () => Late,
): Promise<Result | Late> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.min(Math.max(timeoutMs, 0), longestMs));
  });
  try {
    return await Promise.race([work, timeout.then(onTimeout)]);
  } finally {
    clearTimeout(timer);
  }
}
