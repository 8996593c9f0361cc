/** Collects when things were last used and writes it at intervals: coarse, best effort, and without delaying a request. */

import { StorageUnavailableError } from '../errors.ts';
import { Repetition } from '../runtime/repetition.ts';

const flushIntervalMs = 5_000;
/** Uses per write, 90,000 an hour: a larger write would delay requests. The rest stay for the next one. */
const maxWritten = 125;
/** A use is written again only after this many seconds. */
const coarsenessSeconds = 3_600;
const maxPending = 10_000;

export class UseRecorder {
  readonly #write: (usedAt: ReadonlyMap<string, number>) => Promise<void>;
  readonly #pending = new Map<string, number>();
  readonly #flushes = new Repetition(flushIntervalMs, () => this.flush());

  /** `write` gets Unix seconds by id. Uses that it could not write because the database was unavailable are retried. */
  constructor(write: (usedAt: ReadonlyMap<string, number>) => Promise<void>) {
    this.#write = write;
  }

  /** Notes a use now. Returns false, with nothing noted, if the last recorded use is recent enough or too many are pending. */
  note(id: string, recordedAt: number | null): boolean {
    const now = Math.floor(Date.now() / 1000);
    if (recordedAt !== null && now - recordedAt < coarsenessSeconds) return false;
    if (this.#pending.size >= maxPending) return false;
    this.#pending.set(id, now);
    return true;
  }

  /** Writes a use at once. Throws what `write` throws. */
  async record(id: string): Promise<void> {
    await this.#write(new Map([[id, Math.floor(Date.now() / 1000)]]));
  }

  async flush(most = maxWritten): Promise<void> {
    const written = new Map([...this.#pending].slice(0, most));
    if (written.size === 0) return;
    for (const id of written.keys()) this.#pending.delete(id);
    try {
      await this.#write(written);
    } catch (error) {
      // A refused write would be refused again, together with all that is written with it.
      if (!(error instanceof StorageUnavailableError)) return;
      for (const [id, usedAt] of written)
        if (!this.#pending.has(id) && this.#pending.size < maxPending) this.#pending.set(id, usedAt);
    }
  }

  async close(): Promise<void> {
    await this.#flushes.stop();
    await this.flush(maxPending);
  }
}
