/** Writes from time to time, and at a clean end, into each sink how far the chains of the other have come. */

import { readRecord } from '../crypto/audit-chain.ts';
import type { AuditStore } from '../store/audit.ts';
import { within } from '../within.ts';
import { type ChainHead, vaultActor } from './event.ts';
import type { AuditJournal } from './journal.ts';
import type { AuditKeys } from './keys.ts';
import type { AuditLog } from './log.ts';

const anchorAct = 'audit.anchor';
/** How long the last anchor may take. */
const lastAnchorMs = 2_000;

export interface AnchorsContext {
  readonly log: AuditLog;
  readonly journal: AuditJournal;
  readonly store: AuditStore;
  readonly keys: AuditKeys;
  readonly intervalMs: number;
  /** What the first records say of the process. */
  readonly details: Readonly<Record<string, unknown>>;
}

export class Anchors {
  readonly #context: AnchorsContext;
  #timer: NodeJS.Timeout | undefined;
  /** How many uses in the log the table has vouched for, and up to where the log has vouched for the table. */
  #uses = 0;
  #position = 0;

  constructor(context: AnchorsContext) {
    this.#context = context;
  }

  /** Begins both chains: the log's names the table's last record, the table's the log's first. Throws StorageUnavailableError. */
  async start(): Promise<void> {
    const { log, journal, store, keys, intervalMs, details } = this.#context;
    await keys.refresh();
    this.#position = Math.max(0, (await store.lastPosition()) - 1);
    const heads = await this.#tableHeads();
    // Where the sink takes nothing the vault starts all the same, and refuses to use keys until it does.
    await log.record(vaultActor, [{ act: 'audit.start', outcome: 'done', details, heads }]).catch(() => undefined);
    const own = log.head === null ? [] : [log.head];
    await journal.note(vaultActor, { act: 'audit.start', outcome: 'done', details, heads: [...own, ...heads] });
    this.#timer = setInterval(() => void this.anchor(), intervalMs).unref();
  }

  /** Best effort: what could not be anchored now is anchored next time. */
  async anchor(): Promise<void> {
    await this.#context.keys.refresh();
    await this.#anchorTable().catch(() => undefined);
    await this.#anchorLog().catch(() => undefined);
  }

  /** Anchors once more, but keeps nobody waiting for a database that does not answer. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    if (this.#timer !== undefined) await within(this.anchor(), lastAnchorMs, () => undefined);
  }

  async #anchorTable(): Promise<void> {
    const position = this.#position;
    try {
      const heads = await this.#tableHeads();
      if (heads.length > 0) await this.#context.log.record(vaultActor, [{ act: anchorAct, outcome: 'done', heads }]);
    } catch (error) {
      this.#position = position;
      throw error;
    }
  }

  async #anchorLog(): Promise<void> {
    const { log, journal } = this.#context;
    const { head, uses } = log;
    if (head === null || uses === this.#uses) return;
    await journal.note(vaultActor, { act: anchorAct, outcome: 'done', heads: [head] });
    this.#uses = uses;
  }

  /**
   * The last record of every chain that has grown since the last look; of none, where they have grown by anchors alone,
   * which would call for each other for ever.
   */
  async #tableHeads(): Promise<ChainHead[]> {
    const { store } = this.#context;
    const heads = new Map<string, ChainHead>();
    let isNews = false;
    for await (const { line, position } of store.allAfter(this.#position)) {
      this.#position = position;
      const record = readRecord(line, () => undefined);
      if (record === null) continue;
      isNews ||= record.fields.act !== anchorAct;
      const { chain, sequence: seq, mac } = record;
      if (seq > (heads.get(chain)?.seq ?? 0)) heads.set(chain, { sink: 'database', chain, seq, mac });
    }
    return isNews ? [...heads.values()] : [];
  }
}
