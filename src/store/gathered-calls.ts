/**
 * Carries out everything that is asked within one turn of the event loop in one call to the database, and makes no further one
 * while several are under way: so the busier the process, the less each costs.
 */

import { StorageUnavailableError } from '../errors.ts';

/** Who has waited so long is told so, and not after all who came before have been. */
const maxWaitMs = 5_000;

interface Asked<Question, Answer> {
  readonly question: Question;
  /** By `performance.now()`. */
  readonly askedAtMs: number;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export interface GatheredCallsOptions<Question, Answer> {
  /** Answers each question, in order. */
  readonly call: (questions: readonly Question[]) => Promise<readonly Answer[]>;
  readonly maxQuestions: number;
  /** More would not be answered sooner; fewer let one that is late hold up all others. */
  readonly maxUnderWay: number;
  /** Whether a call that ended so has done nothing, and may be the fault of some of its questions alone. */
  readonly isDivisible: (error: unknown) => boolean;
}

export class GatheredCalls<Question, Answer> {
  readonly #options: GatheredCallsOptions<Question, Answer>;
  #waiting: Asked<Question, Answer>[] = [];
  #isScheduled = false;
  #underWay = 0;

  constructor(options: GatheredCallsOptions<Question, Answer>) {
    this.#options = options;
  }

  /** Rejects with what the call that it was part of rejects with. */
  ask(question: Question): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ question, askedAtMs: performance.now(), resolve, reject });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#isScheduled || this.#underWay >= this.#options.maxUnderWay || this.#waiting.length === 0) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      void this.#callForWaiting();
    });
  }

  async #callForWaiting(): Promise<void> {
    const taken = this.#waiting.splice(0, this.#options.maxQuestions);
    const since = performance.now() - maxWaitMs;
    const asked = taken.filter(({ askedAtMs }) => askedAtMs >= since);
    for (const { reject, askedAtMs } of taken) {
      if (askedAtMs < since) reject(new StorageUnavailableError('The database is too slow for what is asked of it.'));
    }
    this.#underWay += 1;
    this.#schedule();
    if (asked.length > 0) await this.#answer(asked);
    this.#underWay -= 1;
    this.#schedule();
  }

  /** A question that is at fault fails alone. */
  async #answer(asked: readonly Asked<Question, Answer>[]): Promise<void> {
    try {
      const answers = await this.#options.call(asked.map(({ question }) => question));
      for (const [index, { resolve }] of asked.entries()) resolve(answers[index] as Answer);
    } catch (error) {
      const isDivided = asked.length > 1 && this.#options.isDivisible(error);
      const middle = Math.ceil(asked.length / 2);
      if (isDivided) await Promise.all([this.#answer(asked.slice(0, middle)), this.#answer(asked.slice(middle))]);
      else for (const { reject } of asked) reject(error);
    }
  }
}
