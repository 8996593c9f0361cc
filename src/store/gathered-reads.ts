/**
 * Answers everything that is asked within one turn of the event loop with one query, and asks no further one while several
 * are under way: so the busier the process, the less each question costs.
 */

import { AnswerTooLargeError, StorageUnavailableError } from '../errors.ts';

/** So many answers of the largest values, 64 KiB in hex, are four megabytes: a libSQL server sends ten at most, and slowly. */
const maxQuestions = 32;
/** More would not be answered sooner; fewer would let one that is late hold up all others. */
const maxUnderWay = 4;
/** Who has waited so long is told so, and not after all who came before have been. */
const maxWaitMs = 5_000;

interface Asked<Question, Answer> {
  readonly question: Question;
  /** By `performance.now()`. */
  readonly askedAtMs: number;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export class GatheredReads<Question, Answer> {
  /** Answers each question, in order. */
  readonly #read: (questions: readonly Question[]) => Promise<readonly Answer[]>;
  #waiting: Asked<Question, Answer>[] = [];
  #isScheduled = false;
  #underWay = 0;

  constructor(read: (questions: readonly Question[]) => Promise<readonly Answer[]>) {
    this.#read = read;
  }

  /** Rejects with what the query that it was part of rejects with. */
  ask(question: Question): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ question, askedAtMs: performance.now(), resolve, reject });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#isScheduled || this.#underWay >= maxUnderWay || this.#waiting.length === 0) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      void this.#readWaiting();
    });
  }

  async #readWaiting(): Promise<void> {
    const taken = this.#waiting.splice(0, maxQuestions);
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

  /** A question whose answer is too large fails alone. */
  async #answer(asked: readonly Asked<Question, Answer>[]): Promise<void> {
    try {
      const answers = await this.#read(asked.map(({ question }) => question));
      for (const [index, { resolve }] of asked.entries()) resolve(answers[index] as Answer);
    } catch (error) {
      const isDivisible = error instanceof AnswerTooLargeError && asked.length > 1;
      const middle = Math.ceil(asked.length / 2);
      if (isDivisible) await Promise.all([this.#answer(asked.slice(0, middle)), this.#answer(asked.slice(middle))]);
      else for (const { reject } of asked) reject(error);
    }
  }
}
