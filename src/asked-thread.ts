/** A thread that is asked: whoever asks gets the answer to that question or an error, also where the thread dies. */

import { parentPort, Worker, type WorkerOptions } from 'node:worker_threads';

interface Numbered<Question> {
  readonly number: number;
  readonly question: Question;
}

type Reply<Answer> = { readonly number: number } & ({ readonly answer: Answer } | { readonly error: unknown });

interface Asked<Answer> {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export class AskedThread<Question, Answer> {
  readonly #worker: Worker;
  readonly #asked = new Map<number, Asked<Answer>>();
  #questions = 0;
  #failure: unknown = null;

  /** `entry` is a compiled file that calls {@link answerQuestions}. */
  constructor(entry: URL, options: WorkerOptions) {
    this.#worker = new Worker(entry, options);
    this.#worker.on('message', (reply: Reply<Answer>) => {
      const asked = this.#asked.get(reply.number);
      this.#asked.delete(reply.number);
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

  /**
   * Rejects with what answering it threw, or with what the thread has died of. What goes there and back is copied, but for what is
   * `moved`, which is gone here.
   */
  ask(question: Question, moved: readonly ArrayBuffer[] = []): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure);
      const number = this.#questions;
      this.#questions += 1;
      // Throws what cannot be copied; then nothing is waited for.
      this.#worker.postMessage({ number, question } satisfies Numbered<Question>, moved);
      this.#asked.set(number, { resolve, reject });
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    for (const { reject } of this.#asked.values()) reject(error);
    this.#asked.clear();
    void this.#worker.terminate();
  }
}

/** To be called by the thread. What `movedOf` names of an answer is moved to whoever asked, and not copied. */
export function answerQuestions<Question, Answer>(
  answer: (question: Question) => Answer,
  movedOf: (answer: Answer) => readonly ArrayBuffer[] = () => [],
): void {
  parentPort?.on('message', ({ number, question }: Numbered<Question>) => {
    const reply = replyTo(question, answer);
    parentPort?.postMessage({ number, ...reply } satisfies Reply<Answer>, 'answer' in reply ? movedOf(reply.answer) : []);
  });
  // A question that cannot be read has no number to answer to: all that ask are told by the end of the thread.
  parentPort?.on('messageerror', (error) => {
    throw error;
  });
}

function replyTo<Question, Answer>(
  question: Question,
  answer: (question: Question) => Answer,
): { answer: Answer } | { error: unknown } {
  try {
    return { answer: answer(question) };
  } catch (error) {
    return { error };
  }
}
