/**
 * Where surveys run: on this thread, or, for a large table, on one of their own, so that no request waits while all rows are
 * opened.
 */

import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { VaultError } from '../errors.ts';
import { TaskThreads } from '../runtime/task-threads.ts';
import type { DatabaseLocation } from '../store/database.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import { type CoverageSettings, inspectCoverage, rowsOf } from './coverage.ts';
import { type Survey, survey } from './survey.ts';

export interface Surveyor {
  /** Reads begin after the call. Throws StorageUnavailableError, or ConfigurationError. */
  survey(): Promise<Survey>;
  close(): Promise<void>;
}

/** Surveys on the calling thread. */
export function surveyHere(tables: EncryptedTables, coverage: CoverageSettings, keyring: Keyring): Surveyor {
  return { survey: () => survey(tables, coverage, keyring), close: async () => undefined };
}

/** The task of a survey thread; keys are copied to it as KeyObjects. */
export interface SurveyTask {
  readonly database: DatabaseLocation;
  readonly coverage: CoverageSettings;
  readonly keys: readonly GivenKey[];
}

export interface SurveyThreadsContext {
  /** The compiled file that the thread runs. */
  readonly entry: URL;
  readonly database: DatabaseLocation;
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly keyring: Keyring;
  /** Called with the error that a thread died of. */
  readonly onDeath: (error: unknown) => void;
}

/** Up to this many rows are opened faster than a thread starts, with turns for requests in between. */
const maxRowsHere = 1_000;

/**
 * Surveys a large table on a thread with its own database connection, one at a time. If the thread dies, the survey runs here.
 */
export class SurveyThreads implements Surveyor {
  readonly #context: SurveyThreadsContext;
  readonly #here: Surveyor;
  readonly #threads = new TaskThreads<never>();
  #running: Promise<unknown> = Promise.resolve();
  #next: Promise<Survey> | null = null;

  constructor(context: SurveyThreadsContext) {
    this.#context = context;
    this.#here = surveyHere(context.tables, context.coverage, context.keyring);
  }

  /**
   * All callers that ask while a survey is running share the next one: the running one may have passed the rows that they ask
   * about.
   */
  async survey(): Promise<Survey> {
    const { tables, coverage } = this.#context;
    if (rowsOf(await inspectCoverage(tables, coverage, maxRowsHere + 1)) <= maxRowsHere) return this.#here.survey();
    this.#next ??= this.#afterRunning();
    return this.#next;
  }

  async close(): Promise<void> {
    await this.#threads.stop();
  }

  async #afterRunning(): Promise<Survey> {
    await this.#running;
    this.#next = null;
    const { entry, database, coverage, keyring } = this.#context;
    const task: SurveyTask = { database, coverage, keys: keyring.given };
    try {
      const thread = this.#threads.start<Survey>(entry, task);
      this.#running = thread.result.catch(() => undefined);
      return await thread.result;
    } catch (error) {
      if (error instanceof VaultError) throw error;
      this.#context.onDeath(error);
      return this.#here.survey();
    }
  }
}
