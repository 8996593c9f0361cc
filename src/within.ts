/** Waits for work only as long as it is worth waiting for: leaves no timer behind, and no error that nobody handles. */

/** Settles as the work does, or, where that takes longer than `timeoutMs`, as `late` answers or throws. The work itself goes on. */
export async function within<Result, Late>(work: Promise<Result>, timeoutMs: number, late: () => Late): Promise<Result | Late> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  try {
    return await Promise.race([work, timeout.then(late)]);
  } finally {
    clearTimeout(timer);
  }
}
