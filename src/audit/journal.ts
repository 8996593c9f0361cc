/**
 * Records admin acts and writes in the database, in the transaction of what they record. Several may be in flight at once: each
 * record names the earlier ones that were not yet written, and those that never will be.
 */

import { AuditChain, type ChainedRecord } from '../crypto/audit-chain.ts';
import { StorageUnavailableError, VaultError } from '../errors.ts';
import type { AuditStore } from '../store/audit.ts';
import { type Actor, type AuditEvent, toFields } from './event.ts';
import type { AuditKeys } from './keys.ts';

/** After this many records that were not written, a new chain begins instead of naming them all. */
const maxVoid = 100;

/** A write that stores the given record with its own changes. */
export type RecordedWrite<Result> = (record: ChainedRecord) => Promise<Result>;

export class AuditJournal {
  readonly #store: AuditStore;
  readonly #keys: AuditKeys;
  #chain = new AuditChain();
  #open = new Set<number>();
  #void = new Set<number>();

  constructor(store: AuditStore, keys: AuditKeys) {
    this.#store = store;
    this.#keys = keys;
  }

  /**
   * Signs a record and passes it to `write`, which must add it in its own transaction. If `write` throws, or returns null or false,
   * the record counts as not written. Throws what `write` throws, or ConfigurationError.
   */
  async recorded<Result>(actor: Actor, event: AuditEvent, write: RecordedWrite<Result>): Promise<Result> {
    if (this.#void.size > maxVoid) this.#beginChain();
    const [open, gone] = [this.#open, this.#void];
    const announced = [...gone];
    const record = this.#chain.append(this.#keys.current, {
      ...(open.size > 0 && { open: [...open] }),
      ...(announced.length > 0 && { void: announced }),
      ...toFields(actor, event),
    });
    open.add(record.sequence);
    let isDone = false;
    try {
      const result = await write(record);
      isDone = result !== null && result !== false;
      return result;
    } finally {
      open.delete(record.sequence);
      if (isDone) for (const sequence of announced) gone.delete(sequence);
      else gone.add(record.sequence);
    }
  }

  /** Records an act that needs no transaction. Throws StorageUnavailableError. */
  async note(actor: Actor, event: AuditEvent): Promise<void> {
    await this.recorded(actor, event, (record) => this.#store.add(record));
  }

  /**
   * Carries out an act that writes nothing of its own, and records the outcome before returning the result. Throws what `work`
   * throws, or StorageUnavailableError if the record cannot be written.
   */
  async acted<Result>(
    actor: Actor,
    act: string,
    work: () => Promise<Result>,
    toDetails: (result: Result) => Readonly<Record<string, unknown>>,
  ): Promise<Result> {
    let result: Result;
    try {
      result = await work();
    } catch (error) {
      await this.refused(actor, act, error);
      throw error;
    }
    await this.note(actor, { act, outcome: 'done', details: toDetails(result) });
    return result;
  }

  /** Records an act that ended with an error; best effort, since the caller gets the error anyway. */
  async refused(actor: Actor, act: string, error: unknown, details?: Readonly<Record<string, unknown>>): Promise<void> {
    if (error instanceof StorageUnavailableError) return;
    const outcome = error instanceof VaultError ? error.code : 'internal_error';
    await this.note(actor, { act, outcome, ...(details && { details }) }).catch(() => undefined);
  }

  #beginChain(): void {
    this.#chain = new AuditChain();
    this.#open = new Set();
    this.#void = new Set();
  }
}
