/** Who surveys: this thread, or one of its own for each survey, so that no request waits while all rows are opened. */

import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { StorageUnavailableError } from '../errors.ts';
import type { DatabaseLocation } from '../store/database.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import { TaskThread } from '../task-thread.ts';
import type { CoverageSettings } from './coverage.ts';
import { type Survey, survey } from './survey.ts';

export interface Surveyor {
  /** What it answers was read after it was asked. Throws StorageUnavailableError, or ConfigurationError. */
  survey(): Promise<Survey>;
  close(): Promise<void>;
}

/** Everything on the thread that calls. */
export function surveyHere(tables: EncryptedTables, coverage: CoverageSettings, keyring: Keyring): Surveyor {
  return { survey: () => survey(tables, coverage, keyring), close: async () => undefined };
}

/** What a survey's thread is given; keys are copied to it as KeyObjects. */
export interface SurveyTask {
  readonly database: DatabaseLocation;
  readonly coverage: CoverageSettings;
  readonly keys: readonly GivenKey[];
}

/** On threads of the compiled file `entry`, each with a database connection of its own, one at a time. */
export class SurveyThreads implements Surveyor {
  readonly #entry: URL;
  readonly #task: SurveyTask;
  #thread: TaskThread<Survey> | null = null;
  #running: Promise<unknown> = Promise.resolve();
  #next: Promise<Survey> | null = null;
  #isClosed = false;

  constructor(entry: URL, task: SurveyTask) {
    this.#entry = entry;
    this.#task = task;
  }

  /** All that ask while one is under way share the next: that one may have passed the rows that they ask about. */
  survey(): Promise<Survey> {
    this.#next ??= this.#afterRunning();
    return this.#next;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#thread?.stop();
  }

  async #afterRunning(): Promise<Survey> {
    await this.#running;
    if (this.#isClosed) throw new StorageUnavailableError('The vault is stopping.');
    this.#next = null;
    this.#thread = new TaskThread<Survey>(this.#entry, this.#task);
    this.#running = this.#thread.result.catch(() => undefined);
    return this.#thread.result;
  }
}
