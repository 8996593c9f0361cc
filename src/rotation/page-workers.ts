/** Who does the work on a rotation's pages: this thread, one page after the other, or several, with the results in the pages' order. */

import { Worker } from 'node:worker_threads';
import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { type EncryptedPage, pageRows } from '../store/encrypted-rows.ts';
import type { RowsPlan } from './classify.ts';
import { type PageReport, PageWork, type SealedPage } from './page-work.ts';

export interface PageWorkers {
  inspectAll(pages: AsyncIterable<EncryptedPage>): AsyncIterable<PageReport>;
  sealAll(pages: AsyncIterable<EncryptedPage>): AsyncIterable<SealedPage>;
  /** To be called at the end, whatever that is. */
  close(): Promise<void>;
}

export type StartPageWorkers = (plan: RowsPlan, keyring: Keyring) => PageWorkers;

/** Everything on the thread that calls. */
export const workHere: StartPageWorkers = (plan, keyring) => {
  const work = new PageWork(plan, keyring);
  return {
    async *inspectAll(pages) {
      for await (const page of pages) yield work.inspect(page);
    },
    async *sealAll(pages) {
      for await (const page of pages) yield work.seal(page);
    },
    close: async () => undefined,
  };
};

/** What a thread is started with; keys are copied to it as KeyObjects. */
export interface PageThreadSettings {
  readonly plan: RowsPlan;
  readonly keys: readonly GivenKey[];
}

/** What a thread is asked, and answers in the same order. */
export interface PageQuestion {
  readonly kind: 'inspect' | 'seal';
  readonly page: EncryptedPage;
}

export type PageAnswer = { readonly result: PageReport | SealedPage } | { readonly error: unknown };

/** Pages that each thread has before it, so that it need not wait for the next. */
const pagesPerThread = 2;
/** A thread's garbage is mostly what lies behind cipher objects, which V8 does not see the size of. */
const youngGenerationMb = 32;

/** So many threads of the compiled file `entry`, started once there is more than one page. */
export function workOnThreads(entry: URL, threads: number): StartPageWorkers {
  return (plan, keyring) => {
    const { from, to, upgradeFormat, skippedRows } = plan;
    return new PageThreads(
      entry,
      threads,
      { plan: { from, to, upgradeFormat, skippedRows }, keys: keyring.given },
      new PageWork(plan, keyring),
    );
  };
}

class PageThreads implements PageWorkers {
  readonly #entry: URL;
  readonly #count: number;
  readonly #settings: PageThreadSettings;
  readonly #work: PageWork;
  readonly #threads: PageThread[] = [];
  #asked = 0;

  constructor(entry: URL, count: number, settings: PageThreadSettings, work: PageWork) {
    this.#entry = entry;
    this.#count = count;
    this.#settings = settings;
    this.#work = work;
  }

  inspectAll(pages: AsyncIterable<EncryptedPage>): AsyncIterable<PageReport> {
    return this.#inOrder(pages, async (page) =>
      this.#isWorthAThread(page) ? ((await this.#ask({ kind: 'inspect', page })) as PageReport) : this.#work.inspect(page),
    );
  }

  sealAll(pages: AsyncIterable<EncryptedPage>): AsyncIterable<SealedPage> {
    return this.#inOrder(pages, async (page) =>
      this.#isWorthAThread(page) ? ((await this.#ask({ kind: 'seal', page })) as SealedPage) : this.#work.seal(page),
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }

  /** A small table has no full page, and a thread takes longer to start than that takes to rotate. */
  #isWorthAThread({ rows }: EncryptedPage): boolean {
    return rows === pageRows;
  }

  #ask(question: PageQuestion): Promise<PageReport | SealedPage> {
    const place = this.#asked % this.#count;
    this.#asked += 1;
    this.#threads[place] ??= new PageThread(this.#entry, this.#settings);
    return this.#threads[place].ask(question);
  }

  async *#inOrder<Result>(
    pages: AsyncIterable<EncryptedPage>,
    work: (page: EncryptedPage) => Promise<Result>,
  ): AsyncGenerator<Result> {
    const underWay: Promise<Result>[] = [];
    for await (const page of pages) {
      const result = work(page);
      // Whoever awaits it in its turn still meets its error.
      result.catch(() => undefined);
      underWay.push(result);
      if (underWay.length <= this.#count * pagesPerThread) continue;
      const [first] = underWay.splice(0, 1);
      if (first !== undefined) yield await first;
    }
    for (const result of underWay) yield await result;
  }
}

interface Asked {
  readonly resolve: (result: PageReport | SealedPage) => void;
  readonly reject: (error: unknown) => void;
}

class PageThread {
  readonly #worker: Worker;
  readonly #asked: Asked[] = [];
  #failure: unknown = null;

  constructor(entry: URL, workerData: PageThreadSettings) {
    this.#worker = new Worker(entry, { workerData, resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb } });
    this.#worker.on('message', (answer: PageAnswer) => {
      const asked = this.#asked.shift();
      if ('result' in answer) asked?.resolve(answer.result);
      else asked?.reject(answer.error);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('messageerror', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('A thread of the rotation ended before its work.')));
  }

  ask(question: PageQuestion): Promise<PageReport | SealedPage> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      this.#asked.push({ resolve, reject });
      this.#worker.postMessage(question);
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    for (const { reject } of this.#asked.splice(0)) reject(error);
  }
}
