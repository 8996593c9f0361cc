/**
 * Tells the other processes that this replica is alive and which master keys it holds, from before it first becomes ready until
 * it stops.
 */

import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Keyring } from '../crypto/keyring.ts';
import { Repetition } from '../runtime/repetition.ts';
import type { Replica, ReplicaStore } from '../store/replicas.ts';

/** Below the 4 seconds for which Node keeps an idle connection, so that an occasional call to a distant server finds one open. */
const intervalMs = 3_000;

export class Heartbeat {
  readonly #replicas: ReplicaStore;
  readonly #replica: Replica;
  #first: Promise<void> | null = null;
  #beats: Repetition | null = null;

  constructor(replicas: ReplicaStore, keyring: Keyring) {
    this.#replicas = replicas;
    this.#replica = { id: randomUUID(), host: hostname(), keyIds: keyring.entries.map(({ key }) => key.id) };
  }

  /**
   * Resolves once the replica is on record; if it rejects, it may be called again. A later heartbeat that fails is made up for by
   * the next.
   */
  async start(): Promise<void> {
    this.#first = this.#replicas.beat(this.#replica);
    await this.#first;
    this.#beats ??= new Repetition(intervalMs, () => this.#replicas.beat(this.#replica));
  }

  async stop(): Promise<void> {
    if (this.#first === null) return;
    await this.#first.catch(() => undefined);
    await this.#beats?.stop();
    await this.#replicas.remove(this.#replica.id).catch(() => undefined);
  }
}
