/**
 * Where texts are worked on: on this thread, or, for many at once, on another, so that no request waits for another's thousand.
 */

import { setImmediate as nextTurn } from 'node:timers/promises';
import pLimit from 'p-limit';
import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { overloaded } from '../errors.ts';
import { Thread } from '../runtime/thread.ts';
import { type CiphertextInput, type PlaintextInput, type TextResults, type TextTask, TextWork } from './text-work.ts';

export interface TextWorkers {
  /** Throws StorageUnavailableError if so much is queued that more would only fill memory. */
  work(task: TextTask): Promise<TextResults>;
  close(): Promise<void>;
}

/** The initial data of the thread; keys are copied to it as KeyObjects. */
export interface TextThreadSettings {
  readonly keys: readonly GivenKey[];
}

/** Below both of these, work is done here sooner than it is handed over. */
const minItems = 100;
const minCharacters = 512 * 1024;
const youngGenerationMb = 32;
/** Limit for the texts queued for the thread, in characters: four bodies of maximum size, or hundreds of usual ones. */
const maxWaitingCharacters = 32 * 1024 * 1024;

/** Works on the calling thread. */
export function workOnTextsHere(keyring: Keyring): TextWorkers {
  const textWork = new TextWork(keyring);
  return { work: async (task) => textWork.work(task), close: async () => undefined };
}

/**
 * Works on many texts on a thread of the compiled file `entry`, started with the first such task. If the thread dies, `onDeath`
 * gets the error, its work is done here, and the next task starts another.
 */
export class TextThread implements TextWorkers {
  readonly #entry: URL;
  readonly #keys: readonly GivenKey[];
  readonly #here: TextWorkers;
  readonly #onDeath: (error: unknown) => void;
  readonly #oneAtATime = pLimit(1);
  #thread: Thread<TextTask, TextResults> | null = null;
  #waitingCharacters = 0;

  constructor(entry: URL, keyring: Keyring, onDeath: (error: unknown) => void) {
    this.#entry = entry;
    this.#keys = keyring.given;
    this.#here = workOnTextsHere(keyring);
    this.#onDeath = onDeath;
  }

  async work(task: TextTask): Promise<TextResults> {
    const characters = charactersOf(task);
    if (task.items.length < minItems && characters < minCharacters) return this.#here.work(task);
    if (this.#waitingCharacters > 0 && this.#waitingCharacters + characters > maxWaitingCharacters) throw overloaded();
    this.#waitingCharacters += characters;
    try {
      return await this.#ask(task);
    } finally {
      this.#waitingCharacters -= characters;
    }
  }

  async close(): Promise<void> {
    await this.#thread?.close();
  }

  async #ask(task: TextTask): Promise<TextResults> {
    this.#thread ??= this.#start();
    const thread = this.#thread;
    try {
      return await thread.request(task);
    } catch (error) {
      if (!thread.hasFailed) throw error;
      if (this.#thread === thread) {
        this.#thread = null;
        this.#onDeath(error);
      }
      return this.#oneAtATime(async () => {
        await nextTurn();
        return this.#here.work(task);
      });
    }
  }

  #start(): Thread<TextTask, TextResults> {
    const workerData: TextThreadSettings = { keys: this.#keys };
    return new Thread(this.#entry, { workerData, resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb } });
  }
}

function charactersOf({ items }: TextTask): number {
  return items.reduce((sum, item) => sum + lengthOf(item), 0);
}

function lengthOf(item: PlaintextInput | CiphertextInput): number {
  if ('row' in item) return item.row.encryptedValue.length + item.row.iv.length + item.row.authTag.length;
  const text = 'plaintext' in item ? item.plaintext : item.ciphertext;
  return text.length + (item.context?.length ?? 0);
}
