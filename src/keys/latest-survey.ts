/** Keeps the last survey for answers that cannot wait until all rows have been opened; one that asks begins the next when it is due. */

import { withTimeout } from '../runtime/with-timeout.ts';
import type { Survey } from './survey.ts';
import type { Surveyor } from './surveyor.ts';

/**
 * A survey is repeated once it is older than this, and older than this many times its duration; the survey thread works for a
 * third of that duration.
 */
const minAgeMs = 5_000;
const ageFactor = 30;
const defaultWaitMs = 250;

export class LatestSurvey {
  readonly #surveyor: Surveyor;
  #underWay: Promise<Survey> | null = null;
  #last: Survey | null = null;
  /** All times here are by `performance.now()`. */
  #dueAtMs = 0;
  /** When the last survey began, and when a change occurred that it may not have seen. */
  #begunAtMs = 0;
  #outdatedAtMs = 0;

  constructor(surveyor: Surveyor) {
    this.#surveyor = surveyor;
  }

  /**
   * Waits up to `waitMs` for a survey that is under way, and throws its error if it fails in that time. The result is at most a few
   * seconds old for a small table. For a large one, surveys cost about a hundredth of a processor, and the result is null before
   * the first has ended.
   */
  async get(waitMs = defaultWaitMs): Promise<Survey | null> {
    const isDue = performance.now() >= this.#dueAtMs || this.#outdatedAtMs > this.#begunAtMs;
    if (this.#underWay === null && isDue) {
      this.#underWay = this.#run();
      // Callers that wait for it get its error; if none does, the next survey shows the problem.
      this.#underWay.catch(() => undefined);
    }
    if (this.#underWay === null || waitMs === 0) return this.#last;
    return withTimeout(this.#underWay, waitMs, () => this.#last);
  }

  /**
   * Call after a rotation, or a restore by `replace`, run by this process: the last survey is outdated, and another becomes due.
   */
  outdate(): void {
    this.#outdatedAtMs = performance.now();
  }

  async #run(): Promise<Survey> {
    const begunAtMs = performance.now();
    try {
      this.#last = await this.#surveyor.survey();
      return this.#last;
    } finally {
      this.#begunAtMs = begunAtMs;
      const tookMs = performance.now() - begunAtMs;
      this.#dueAtMs = performance.now() + Math.max(minAgeMs, tookMs * ageFactor);
      this.#underWay = null;
    }
  }
}
