/** Writes from time to time, and at a clean end, into each sink how far the chains of the other have come. */

import { type ReadRecord, readRecord } from '../crypto/audit-chain.ts';
import type { AuditStore } from '../store/audit.ts';
import { within } from '../within.ts';
import { type AuditEvent, type ChainHead, vaultActor } from './event.ts';
import type { AuditJournal } from './journal.ts';
import type { AuditKeys } from './keys.ts';
import type { AuditLog } from './log.ts';

const startAct = 'audit.start';
const anchorAct = 'audit.anchor';
/** How long the last anchor may take. */
const lastAnchorMs = 2_000;
/** So many fit into a record of a few kilobytes. */
const maxHeads = 20;
/** Among so many of the last anchors in the table is one that is authentic, unless somebody has put others there. */
const maxAnchorsSeen = 20;

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
  /** How many uses in the log the table has vouched for. */
  #uses = 0;
  /** Up to where the log has vouched for the table, by this process or one before; null before that is known. */
  #position: number | null = null;

  constructor(context: AnchorsContext) {
    this.#context = context;
  }

  /** Begins both chains: the log's names the table's last record, the table's the log's first. Throws StorageUnavailableError. */
  async start(): Promise<void> {
    const { log, journal, store, keys, intervalMs, details } = this.#context;
    await keys.refresh();
    const { heads } = await this.#readTable((await store.lastPosition()) - 1);
    // Where the sink takes nothing the vault starts all the same, and refuses to use keys until it does.
    await log.record(vaultActor, [{ act: startAct, outcome: 'done', details, heads }]).catch(() => undefined);
    const own = log.head === null ? [] : [log.head];
    await journal.note(vaultActor, { act: startAct, outcome: 'done', details, heads: [...own, ...heads] });
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
    const { heads, position, isNews } = await this.#readTable(await this.#findPosition());
    const events: AuditEvent[] = [];
    for (let from = 0; isNews && from < heads.length; from += maxHeads) {
      events.push({ act: anchorAct, outcome: 'done', heads: heads.slice(from, from + maxHeads) });
    }
    if (events.length > 0) await this.#context.log.record(vaultActor, events);
    this.#position = position;
  }

  async #anchorLog(): Promise<void> {
    const { log, journal } = this.#context;
    const { head, uses } = log;
    if (head === null || uses === this.#uses) return;
    const details = this.#position === null ? {} : { details: { anchored_to: this.#position } };
    await journal.note(vaultActor, { act: anchorAct, outcome: 'done', ...details, heads: [head] });
    this.#uses = uses;
  }

  /**
   * Of what other processes have written since somebody last vouched for the table, the command line and those that were killed vouch
   * for nothing. Where the table ends before that place it has been cut, and the places behind may have been given again.
   */
  async #findPosition(): Promise<number> {
    const position = this.#position ?? (await this.#lastAnchored());
    return (await this.#context.store.lastPosition()) < position ? 0 : position;
  }

  /** As the last authentic anchor in the table says. */
  async #lastAnchored(): Promise<number> {
    for (const { line } of await this.#context.store.findLast(`"act":"${anchorAct}"`, maxAnchorsSeen)) {
      const { anchored_to } = (this.#authentic(line)?.fields.details ?? {}) as { anchored_to?: unknown };
      if (typeof anchored_to === 'number') return anchored_to;
    }
    return 0;
  }

  /**
   * The last authentic record of every chain that has grown behind this place, and where the last of all stands. No news is where they
   * have grown by anchors alone, which would call for each other for ever. Whoever can write the table alone is vouched for in nothing.
   */
  async #readTable(after: number): Promise<{ heads: ChainHead[]; position: number; isNews: boolean }> {
    const heads = new Map<string, ChainHead>();
    let isNews = false;
    let last = after;
    for await (const { line, position } of this.#context.store.allAfter(after)) {
      const record = this.#authentic(line);
      if (record === null) continue;
      last = position;
      isNews ||= record.fields.act !== anchorAct;
      const { chain, sequence: seq, mac } = record;
      if (seq > (heads.get(chain)?.seq ?? 0)) heads.set(chain, { sink: 'database', chain, seq, mac });
    }
    return { heads: [...heads.values()], position: last, isNews };
  }

  #authentic(line: string): ReadRecord | null {
    const record = readRecord(line, (keyId) => this.#context.keys.find(keyId));
    return record?.isAuthentic === true ? record : null;
  }
}
