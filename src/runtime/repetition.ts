/** Repeats work at an interval. It does not keep the process alive, and once it is stopped no work is in flight. */

export class Repetition {
  readonly #timer: NodeJS.Timeout;
  #underWay: Promise<void> = Promise.resolve();

  /** A failure of `work` is ignored: the next run makes up for it. Runs overlap if one takes longer than the interval. */
  constructor(intervalMs: number, work: () => Promise<unknown>, isAtOnce = false) {
    const begin = (): void => {
      // Drops the results: each would otherwise retain all earlier ones.
      this.#underWay = Promise.allSettled([this.#underWay, work()]).then(() => undefined);
    };
    if (isAtOnce) begin();
    this.#timer = setInterval(begin, intervalMs).unref();
  }

  /** Resolves once the work in flight has ended. Never rejects. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#underWay;
  }
}
