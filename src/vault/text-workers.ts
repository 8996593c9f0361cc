/** Who works on texts: this thread, and for many of them at once another, so that no request waits for someone else's thousand. */

import { AskedThread } from '../asked-thread.ts';
import type { GivenKey, Keyring } from '../crypto/keyring.ts';
import { type TextResults, type TextTask, TextWork } from './text-work.ts';

export interface TextWorkers {
  work(task: TextTask): Promise<TextResults>;
  close(): Promise<void>;
}

/** What the thread is started with; keys are copied to it as KeyObjects. */
export interface TextThreadSettings {
  readonly keys: readonly GivenKey[];
}

/** Fewer are sooner done than handed over. */
const minItems = 100;
const youngGenerationMb = 32;

/** Everything on the thread that calls. */
export function workOnTextsHere(keyring: Keyring): TextWorkers {
  const textWork = new TextWork(keyring);
  return { work: async (task) => textWork.work(task), close: async () => undefined };
}

/**
 * Many texts on a thread of the compiled file `entry`, started with the first of them. Where it dies, which `onDeath` is told,
 * its work is done here, and the next task starts another.
 */
export function workOnTextsOnThread(entry: URL, keyring: Keyring, onDeath: (error: unknown) => void): TextWorkers {
  const here = workOnTextsHere(keyring);
  const workerData: TextThreadSettings = { keys: keyring.given };
  let thread: AskedThread<TextTask, TextResults> | null = null;
  return {
    work: async (task) => {
      if (task.items.length < minItems) return here.work(task);
      if (thread === null || thread.hasFailed) {
        thread = new AskedThread(entry, { workerData, resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb } });
      }
      return thread.ask(task).catch((error: unknown) => {
        onDeath(error);
        return here.work(task);
      });
    },
    close: async () => thread?.close(),
  };
}
