/**
 * Sends everything submitted within one turn of the event loop to the database in one call, and limits the calls in flight: the
 * busier the process, the larger the batches and the less each item costs.
 */

import { StorageUnavailableError } from '../errors.ts';

/** An item that has waited this long when its turn comes is rejected instead of sent, so that a backlog drains at once. */
const maxWaitMs = 5_000;

interface Pending<Item, Result> {
  readonly item: Item;
  /** By `performance.now()`. */
  readonly submittedAtMs: number;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

export interface BatcherOptions<Item, Result> {
  /** Resolves with the results of the items, in their order. */
  readonly process: (items: readonly Item[]) => Promise<readonly Result[]>;
  readonly maxItems: number;
  /** More calls in flight would not be answered sooner; with fewer, one slow call would hold up all others. */
  readonly maxConcurrency: number;
  /** Whether a call that failed with this error changed nothing, and may have failed because of only some of its items. */
  readonly isDivisible: (error: unknown) => boolean;
}

export class Batcher<Item, Result> {
  readonly #options: BatcherOptions<Item, Result>;
  #waiting: Pending<Item, Result>[] = [];
  #isScheduled = false;
  #underWay = 0;

  constructor(options: BatcherOptions<Item, Result>) {
    this.#options = options;
  }

  /** Rejects with the error of the call that carried the item. */
  submit(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, submittedAtMs: performance.now(), resolve, reject });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#isScheduled || this.#underWay >= this.#options.maxConcurrency || this.#waiting.length === 0) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      void this.#processWaiting();
    });
  }

  async #processWaiting(): Promise<void> {
    const taken = this.#waiting.splice(0, this.#options.maxItems);
    const since = performance.now() - maxWaitMs;
    const pending = taken.filter(({ submittedAtMs }) => submittedAtMs >= since);
    for (const { reject, submittedAtMs } of taken) {
      if (submittedAtMs < since) reject(new StorageUnavailableError('The database is too slow for what is asked of it.'));
    }
    this.#underWay += 1;
    this.#schedule();
    if (pending.length > 0) await this.#process(pending);
    this.#underWay -= 1;
    this.#schedule();
  }

  /** Splits a batch after a divisible failure, so that only the item at fault fails. */
  async #process(pending: readonly Pending<Item, Result>[]): Promise<void> {
    try {
      const results = await this.#options.process(pending.map(({ item }) => item));
      for (const [index, { resolve }] of pending.entries()) resolve(results[index] as Result);
    } catch (error) {
      const isDivided = pending.length > 1 && this.#options.isDivisible(error);
      const middle = Math.ceil(pending.length / 2);
      if (isDivided) await Promise.all([this.#process(pending.slice(0, middle)), this.#process(pending.slice(middle))]);
      else for (const { reject } of pending) reject(error);
    }
  }
}
