/** Who does the work on a rotation's pages: this thread, one page after the other, or several, with the results in the pages' order. */

import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { Thread } from '../runtime/thread.ts';
import { type EncryptedPage, pageRows } from '../store/encrypted-rows.ts';
import { movable } from '../store/owned-bytes.ts';
import type { RowsPlan } from './classify.ts';
import { type PageReport, PageWork } from './page-work.ts';

export interface PageWorkers {
  /** Opens the rows of the pages, and seals those of the pages that `isToSeal` says yes to. */
  work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncIterable<PageReport>;
  /** From now on they do not rest, where they did. */
  hurry(): void;
  /** To be called at the end, whatever that is. */
  close(): Promise<void>;
}

export type StartPageWorkers = (plan: RowsPlan, keyring: Keyring) => PageWorkers;

/** Everything on the thread that calls. */
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

/** What a thread is started with; keys are copied to it as KeyObjects. */
export interface PageThreadSettings {
  readonly plan: RowsPlan;
  readonly keys: readonly GivenKey[];
}

/** What a thread is asked, and answers with a {@link PageReport}. */
export interface PageTask {
  readonly page: EncryptedPage;
  readonly isToSeal: boolean;
  /** Whether the thread rests after every few rows, so that others find a processor. */
  readonly isThrottled: boolean;
}

/** Pages that each thread has before it, so that it need not wait for the next. */
const pagesPerThread = 2;
/** A page of fewer rows and bytes is sooner done than handed over: a thread takes longer to start than such a table to rotate. */
const minBytes = 256 * 1024;
/** A thread's garbage is mostly what lies behind cipher objects, which V8 does not see the size of. */
const youngGenerationMb = 32;

/** So many threads of the compiled file `entry`, started with the first page that is worth it. Throttled, they rest in between. */
export function workOnThreads(entry: URL, threads: number, isThrottled = false): StartPageWorkers {
  return (plan, keyring) => {
    const { from, to, upgradeFormat, skippedRows, isSwitched } = plan;
    return new PageThreads(
      entry,
      threads,
      { plan: { from, to, upgradeFormat, skippedRows, isSwitched }, keys: keyring.given },
      new PageWork(plan, keyring),
      isThrottled,
    );
  };
}

class PageThreads implements PageWorkers {
  readonly #entry: URL;
  readonly #count: number;
  readonly #settings: PageThreadSettings;
  readonly #work: PageWork;
  #isThrottled: boolean;
  readonly #threads: Thread<PageTask, PageReport>[] = [];
  #requests = 0;

  constructor(entry: URL, count: number, settings: PageThreadSettings, work: PageWork, isThrottled: boolean) {
    this.#entry = entry;
    this.#count = count;
    this.#settings = settings;
    this.#work = work;
    this.#isThrottled = isThrottled;
  }

  async *work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncGenerator<PageReport> {
    const underWay: Promise<PageReport>[] = [];
    for await (const page of pages) {
      const report = this.#workOn({ page, isToSeal: isToSeal(page), isThrottled: this.#isThrottled });
      // Whoever awaits it in its turn still meets its error.
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
    // Copies would lie about until the collector comes, which sees nothing of their size.
    return this.#threads[place].request(task, movable([page.cells]));
  }
}
