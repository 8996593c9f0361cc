/**
 * Answers everything that is asked within one turn of the event loop with one query, and asks no further one while several
 * are under way: so the busier the process, the less each question costs.
 */

/** So many answers of the largest values, 64 KiB in hex, are four megabytes: a libSQL server sends ten at most, and slowly. */
const maxQuestions = 32;
/** More would not be answered sooner; fewer would let one that is late hold up all others. */
const maxUnderWay = 4;

interface Asked<Question, Answer> {
  readonly question: Question;
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
      this.#waiting.push({ question, resolve, reject });
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
    const asked = this.#waiting.splice(0, maxQuestions);
    this.#underWay += 1;
    this.#schedule();
    try {
      const answers = await this.#read(asked.map(({ question }) => question));
      for (const [index, { resolve }] of asked.entries()) resolve(answers[index] as Answer);
    } catch (error) {
      for (const { reject } of asked) reject(error);
    }
    this.#underWay -= 1;
    this.#schedule();
  }
}
