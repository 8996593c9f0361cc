/** Tells the other processes that this replica lives and which master keys it holds, from before it is first ready until it stops. */

import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Keyring } from '../crypto/keyring.ts';
import type { ReplicaStore } from '../store/replicas.ts';

const intervalMs = 5_000;

export class Heartbeat {
  readonly #replicas: ReplicaStore;
  readonly #replica: { readonly id: string; readonly host: string; readonly keyIds: readonly string[] };
  #timer: NodeJS.Timeout | null = null;
  #beating: Promise<void> = Promise.resolve();

  constructor(replicas: ReplicaStore, keyring: Keyring) {
    this.#replicas = replicas;
    this.#replica = { id: randomUUID(), host: hostname(), keyIds: keyring.entries.map(({ key }) => key.id) };
  }

  /** Resolves once the replica is on record. A later beat that fails is made up for by the next. */
  async start(): Promise<void> {
    await this.#replicas.beat(this.#replica);
    this.#timer = setInterval(() => {
      this.#beating = this.#replicas.beat(this.#replica).catch(() => undefined);
    }, intervalMs).unref();
  }

  async stop(): Promise<void> {
    if (this.#timer === null) return;
    clearInterval(this.#timer);
    await this.#beating;
    await this.#replicas.remove(this.#replica.id).catch(() => undefined);
  }
}
