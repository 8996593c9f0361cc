/** Records every use of a key in the log sink: a plaintext is released only after its record is accepted. */

import { AuditChain, type ChainedRecord } from '../crypto/audit-chain.ts';
import { StorageUnavailableError } from '../errors.ts';
import { type Actor, type AuditEvent, type ChainHead, toFields, vaultActor } from './event.ts';
import type { AuditKeys } from './keys.ts';
import type { AuditSink } from './sink.ts';

export class AuditLog {
  readonly #sink: AuditSink | null;
  readonly #keys: AuditKeys;
  readonly #onRefused: () => void;
  readonly #chain = new AuditChain();
  #last: ChainedRecord | null = null;
  #uses = 0;

  /** Without a sink every record is refused, and so is every use of a key. */
  constructor(sink: AuditSink | null, keys: AuditKeys, onRefused: () => void) {
    this.#sink = sink;
    this.#onRefused = onRefused;
    this.#keys = keys;
  }

  /** The last record of this chain that the sink has accepted, or null. */
  get head(): ChainHead | null {
    return this.#last && { sink: 'log', chain: this.#last.chain, seq: this.#last.sequence, mac: this.#last.mac };
  }

  /** Whether the sink's last write failed. */
  get isFailing(): boolean {
    return this.#sink?.isFailing ?? false;
  }

  /** The number of recorded key uses; the chain's other records need no anchor. */
  get uses(): number {
    return this.#uses;
  }

  /** Resolves once all records are accepted, in this order. Throws StorageUnavailableError. */
  async record(actor: Actor, events: readonly AuditEvent[]): Promise<void> {
    const sink = this.#sink;
    if (sink === null) throw notRecorded();
    try {
      // While the sink fails nothing is added to the chain: the lines that it keeps would grow without bound.
      if (sink.isFailing) await sink.recover();
      await Promise.all(events.map((event) => this.#append(sink, actor, event)));
      if (actor !== vaultActor) this.#uses += events.length;
    } catch {
      if (actor !== vaultActor) this.#onRefused();
      throw notRecorded();
    }
  }

  async #append(sink: AuditSink, actor: Actor, event: AuditEvent): Promise<void> {
    const record = this.#chain.append(this.#keys.current, toFields(actor, event));
    await sink.write(record.line);
    if (this.#last === null || record.sequence > this.#last.sequence) this.#last = record;
  }
}

function notRecorded(): StorageUnavailableError {
  return new StorageUnavailableError('The audit log takes no record, and without one no key is used: see VAULT_AUDIT_LOG.');
}
