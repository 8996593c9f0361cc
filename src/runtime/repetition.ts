/** Does something again and again: keeps no process alive for it, and once it is stopped nothing of it is under way any more. */

export class Repetition {
  readonly #timer: NodeJS.Timeout;
  #underWay: Promise<void> = Promise.resolve();

  /** Where `work` fails, the next time makes up for it. One that takes longer than the interval has the next beside it. */
  constructor(intervalMs: number, work: () => Promise<unknown>, isAtOnce = false) {
    const begin = (): void => {
      // Without their results, each of which would hold all those before it.
      this.#underWay = Promise.allSettled([this.#underWay, work()]).then(() => undefined);
    };
    if (isAtOnce) begin();
    this.#timer = setInterval(begin, intervalMs).unref();
  }

  /** Resolves once what is under way has ended. Never rejects. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#underWay;
  }
}
