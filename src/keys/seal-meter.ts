/** Counts what this process seals under each key, and adds it to the total over all processes in the database. */

import { Repetition } from '../runtime/repetition.ts';

const flushIntervalMs = 60_000;

/** How many random IVs one AES-GCM key may be used with, by NIST SP 800-38D. */
export const maxSeals = 2 ** 32;

export class SealMeter {
  readonly #add: (seals: ReadonlyMap<string, number>) => Promise<void>;
  #pending = new Map<string, number>();
  readonly #flushes = new Repetition(flushIntervalMs, () => this.flush());

  /** `add` gets the increments by key id. A failed one is tried again: better counted twice than not at all. */
  constructor(add: (seals: ReadonlyMap<string, number>) => Promise<void>) {
    this.#add = add;
  }

  note(keyId: string, seals = 1): void {
    this.#pending.set(keyId, (this.#pending.get(keyId) ?? 0) + seals);
  }

  /** Seals not yet added to the database. */
  pending(keyId: string): number {
    return this.#pending.get(keyId) ?? 0;
  }

  async flush(): Promise<void> {
    if (this.#pending.size === 0) return;
    const added = this.#pending;
    this.#pending = new Map();
    try {
      await this.#add(added);
    } catch {
      for (const [keyId, seals] of added) this.note(keyId, seals);
    }
  }

  async close(): Promise<void> {
    await this.#flushes.stop();
    await this.flush();
  }
}
