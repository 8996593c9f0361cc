/**
 * Where a rotation's pages are worked on: on this thread, one after the other, or on several, with the results in the order of
 * the pages.
 */

import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { movable } from '../runtime/owned-bytes.ts';
import { Thread } from '../runtime/thread.ts';
import { type EncryptedPage, pageRows } from '../store/encrypted-rows.ts';
import type { RowsPlan } from './classify.ts';
import { type PageReport, PageWork } from './page-work.ts';

export interface PageWorkers {
  /** Opens the rows of the pages, and seals those of pages that `isToSeal` accepts. */
  work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncIterable<PageReport>;
  /** Throttled workers no longer rest from now on. */
  hurry(): void;
  /** Must be called at the end, whatever the outcome. */
  close(): Promise<void>;
}

export type StartPageWorkers = (plan: RowsPlan, keyring: Keyring) => PageWorkers;

/** Works on the calling thread. */
export const workHere: StartPageWorkers = (plan, keyring) => {
  const pageWork = new PageWork(plan, keyring);
  return {
    async *work(pages, isToSeal) {
      for await (const page of pages) yield pageWork.work(page, isToSeal(page));
    },
    hurry: () => undefined,
    close: async () => undefined,
  };
};

/** The initial data of a page thread; keys are copied to it as KeyObjects. */
export interface PageThreadSettings {
  readonly plan: RowsPlan;
  readonly keys: readonly GivenKey[];
}

/** A request to a page thread, which responds with a {@link PageReport}. */
export interface PageTask {
  readonly page: EncryptedPage;
  readonly isToSeal: boolean;
  /** Whether the thread rests after every few rows, to leave processor time to others. */
  readonly isThrottled: boolean;
}

/** Pages queued for each thread, so that it never waits for the next. */
const pagesPerThread = 2;
/**
 * A page with fewer rows than {@link pageRows} and fewer bytes than this is worked on here: a thread takes longer to start than
 * such a table to rotate.
 */
const minBytes = 256 * 1024;
/** Most of a thread's garbage is native memory behind cipher objects, whose size V8 does not see. */
const youngGenerationMb = 32;

/**
 * Works on `threads` threads of the compiled file `entry`, each started with its first page that is large enough. If throttled,
 * they rest in between.
 */
export function workOnThreads(entry: URL, threads: number, isThrottled = false): StartPageWorkers {
  return (plan, keyring) => new PageThreads(entry, threads, isThrottled, plan, keyring);
}

class PageThreads implements PageWorkers {
  readonly #entry: URL;
  readonly #count: number;
  readonly #settings: PageThreadSettings;
  readonly #work: PageWork;
  #isThrottled: boolean;
  readonly #threads: Thread<PageTask, PageReport>[] = [];
  #requests = 0;

  constructor(entry: URL, count: number, isThrottled: boolean, plan: RowsPlan, keyring: Keyring) {
    const { from, to, upgradeFormat, skippedRows, isSwitched } = plan;
    this.#entry = entry;
    this.#count = count;
    this.#isThrottled = isThrottled;
    this.#settings = { plan: { from, to, upgradeFormat, skippedRows, isSwitched }, keys: keyring.given };
    this.#work = new PageWork(plan, keyring);
  }

  async *work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncGenerator<PageReport> {
    const underWay: Promise<PageReport>[] = [];
    for await (const page of pages) {
      const report = this.#workOn({ page, isToSeal: isToSeal(page), isThrottled: this.#isThrottled });
      // The error is still met when the report is awaited in its turn.
      report.catch(() => undefined);
      underWay.push(report);
      if (underWay.length <= this.#count * pagesPerThread) continue;
      const [first] = underWay.splice(0, 1);
      if (first !== undefined) yield await first;
    }
    for (const report of underWay) yield await report;
  }

  hurry(): void {
    this.#isThrottled = false;
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }

  async #workOn(task: PageTask): Promise<PageReport> {
    const { page, isToSeal } = task;
    if (page.rows < pageRows && page.cells.length < minBytes) return this.#work.work(page, isToSeal);
    const place = this.#requests % this.#count;
    this.#requests += 1;
    this.#threads[place] ??= new Thread(this.#entry, {
      workerData: this.#settings,
      resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb },
    });
    // Copies would stay in memory until they are collected, and the collector does not see their size.
    return this.#threads[place].request(task, movable([page.cells]));
  }
}
