/** Who does the work on a rotation's pages: this thread, one page after the other, or several, with the results in the pages' order. */

import { AskedThread } from '../asked-thread.ts';
import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { type EncryptedPage, pageRows } from '../store/encrypted-rows.ts';
import { movable } from '../store/owned-bytes.ts';
import type { RowsPlan } from './classify.ts';
import { type PageReport, PageWork } from './page-work.ts';

export interface PageWorkers {
  /** Opens the rows of the pages, and seals those of the pages that `isToSeal` says yes to. */
  work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncIterable<PageReport>;
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
    close: async () => undefined,
  };
};

/** What a thread is started with; keys are copied to it as KeyObjects. */
export interface PageThreadSettings {
  readonly plan: RowsPlan;
  readonly keys: readonly GivenKey[];
  /** Whether it rests in between, so that others find a processor. */
  readonly isBackground: boolean;
}

/** What a thread is asked, and answers with a {@link PageReport}. */
export interface PageQuestion {
  readonly page: EncryptedPage;
  readonly isToSeal: boolean;
}

/** Pages that each thread has before it, so that it need not wait for the next. */
const pagesPerThread = 2;
/** A thread's garbage is mostly what lies behind cipher objects, which V8 does not see the size of. */
const youngGenerationMb = 32;

/** So many threads of the compiled file `entry`, started once there is more than one page. In the background they rest in between. */
export function workOnThreads(entry: URL, threads: number, isBackground = false): StartPageWorkers {
  return (plan, keyring) => {
    const { from, to, upgradeFormat, skippedRows } = plan;
    return new PageThreads(
      entry,
      threads,
      { plan: { from, to, upgradeFormat, skippedRows }, keys: keyring.given, isBackground },
      new PageWork(plan, keyring),
    );
  };
}

class PageThreads implements PageWorkers {
  readonly #entry: URL;
  readonly #count: number;
  readonly #settings: PageThreadSettings;
  readonly #work: PageWork;
  readonly #threads: AskedThread<PageQuestion, PageReport>[] = [];
  #asked = 0;

  constructor(entry: URL, count: number, settings: PageThreadSettings, work: PageWork) {
    this.#entry = entry;
    this.#count = count;
    this.#settings = settings;
    this.#work = work;
  }

  async *work(pages: AsyncIterable<EncryptedPage>, isToSeal: (page: EncryptedPage) => boolean): AsyncGenerator<PageReport> {
    const underWay: Promise<PageReport>[] = [];
    for await (const page of pages) {
      const report = this.#workOn({ page, isToSeal: isToSeal(page) });
      // Whoever awaits it in its turn still meets its error.
      report.catch(() => undefined);
      underWay.push(report);
      if (underWay.length <= this.#count * pagesPerThread) continue;
      const [first] = underWay.splice(0, 1);
      if (first !== undefined) yield await first;
    }
    for (const report of underWay) yield await report;
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }

  async #workOn(question: PageQuestion): Promise<PageReport> {
    const { page, isToSeal } = question;
    // A small table has no full page, and a thread takes longer to start than that takes to rotate.
    if (page.rows < pageRows) return this.#work.work(page, isToSeal);
    const place = this.#asked % this.#count;
    this.#asked += 1;
    this.#threads[place] ??= new AskedThread(this.#entry, {
      workerData: this.#settings,
      resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb },
    });
    // Copies would lie about until the collector comes, which sees nothing of their size.
    return this.#threads[place].ask(question, movable([page.cells]));
  }
}
