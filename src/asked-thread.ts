/** A thread that is asked, and answers in the same order: whoever asks gets an answer or an error, also where the thread dies. */

import { parentPort, Worker, type WorkerOptions } from 'node:worker_threads';

type Reply<Answer> = { readonly answer: Answer } | { readonly error: unknown };

interface Asked<Answer> {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** What goes there and back is copied. */
export class AskedThread<Question, Answer> {
  readonly #worker: Worker;
  readonly #asked: Asked<Answer>[] = [];
  #failure: unknown = null;

  /** `entry` is a compiled file that calls {@link answerQuestions}. */
  constructor(entry: URL, options: WorkerOptions) {
    this.#worker = new Worker(entry, options);
    this.#worker.on('message', (reply: Reply<Answer>) => {
      const asked = this.#asked.shift();
      if ('answer' in reply) asked?.resolve(reply.answer);
      else asked?.reject(reply.error);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('messageerror', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('A thread ended before its work.')));
  }

  /** Whether it has died, or was closed: it answers nothing more. */
  get hasFailed(): boolean {
    return this.#failure !== null;
  }

  /** Rejects with what answering it threw, or with what the thread has died of. What is `moved` is not copied, and gone here. */
  ask(question: Question, moved: readonly ArrayBuffer[] = []): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      // Throws what cannot be copied; then nothing is waited for.
      this.#worker.postMessage(question, moved);
      this.#asked.push({ resolve, reject });
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

/** To be called by the thread. */
export function answerQuestions<Question, Answer>(answer: (question: Question) => Answer): void {
  parentPort?.on('message', (question: Question) => parentPort?.postMessage(replyTo(question, answer)));
}

function replyTo<Question, Answer>(question: Question, answer: (question: Question) => Answer): Reply<Answer> {
  try {
    return { answer: answer(question) };
  } catch (error) {
    return { error };
  }
}
