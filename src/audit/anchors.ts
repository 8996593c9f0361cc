/** Writes from time to time, and at a clean end, into each sink how far the chains of the other have come. */

import { type ReadRecord, readRecord } from '../crypto/audit-chain.ts';
import { Repetition } from '../runtime/repetition.ts';
import { within } from '../runtime/within.ts';
import type { AuditStore } from '../store/audit.ts';
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
/** So many records of the table are vouched for at a time: where the rest is cut off, that much is done. */
const recordsAtOnce = 2_000;
/** They are read, on the thread that answers, so many at a time. */
const pageRows = 200;
/** Among so many records is the last anchor, unless a process has died between two; then the table is vouched for from its beginning. */
const maxSearched = 10_000;
/** So long what a process cannot read is left to others. */
const unreadMs = 86_400_000;

export interface AnchorsContext {
  readonly log: AuditLog;
  readonly journal: AuditJournal;
  readonly store: AuditStore;
  readonly keys: AuditKeys;
  readonly intervalMs: number;
  /** What the first records say of the process. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** One whose key the keyring lacks: another process may have it. */
interface UnreadRecord {
  readonly position: number;
  /** Unix milliseconds, as it says. */
  readonly timeMs: number;
}

/** Records of the table that were read in one go. */
interface TablePart {
  /** The last authentic record of every chain among them. */
  readonly heads: readonly ChainHead[];
  /** Where the last of them stands. */
  readonly position: number;
  /** The first of this day whose key the keyring lacks, or null. */
  readonly unread: UnreadRecord | null;
  /** Whether any of them is something else than an anchor. */
  readonly isNews: boolean;
  readonly isLast: boolean;
}

export class Anchors {
  readonly #context: AnchorsContext;
  #repetition: Repetition | null = null;
  #underWay: Promise<void> | null = null;
  /** How many uses in the log the table has vouched for. */
  #uses = 0;
  /** Up to where this process has read the table, and the log vouched for it; null before the first time. */
  #position: number | null = null;
  /** The first that this process could not vouch for. */
  #unread: UnreadRecord | null = null;
  #isStopped = false;

  constructor(context: AnchorsContext) {
    this.#context = context;
  }

  /**
   * Begins both chains: the log's names the table's last record, the table's the log's first. Throws StorageUnavailableError, and may be
   * called again then.
   */
  async start(): Promise<void> {
    const { log, journal, store, keys, intervalMs, details } = this.#context;
    await keys.refresh();
    const { heads } = await this.#readTable((await store.lastPosition()) - 1);
    // Where the sink takes nothing the vault starts all the same, and refuses to use keys until it does.
    if (log.head === null)
      await log.record(vaultActor, [{ act: startAct, outcome: 'done', details, heads }]).catch(() => undefined);
    const own = log.head === null ? [] : [log.head];
    await journal.note(vaultActor, { act: startAct, outcome: 'done', details, heads: [...own, ...heads] });
    this.#repetition = new Repetition(intervalMs, () => this.anchor());
  }

  /** Best effort: what could not be anchored now is anchored next time. */
  anchor(): Promise<void> {
    this.#underWay ??= this.#anchor().finally(() => {
      this.#underWay = null;
    });
    return this.#underWay;
  }

  /** Anchors once more, but keeps nobody waiting for a database that does not answer. */
  async stop(): Promise<void> {
    if (this.#repetition === null) return;
    void this.#repetition.stop();
    // One that is under way may have passed what came last.
    const last = (this.#underWay ?? Promise.resolve()).then(() => this.anchor());
    await within(last, lastAnchorMs, () => undefined);
    this.#isStopped = true;
  }

  async #anchor(): Promise<void> {
    const { keys, log } = this.#context;
    const anchorUses = async (): Promise<void> => {
      if (log.uses !== this.#uses) await this.#anchorLog().catch(() => undefined);
    };
    await keys.refresh();
    // The first time there may be much to read, which a stop does not wait for.
    if (this.#position === null) await anchorUses();
    await this.#anchorTable().catch(() => undefined);
    await anchorUses();
  }

  async #anchorTable(): Promise<void> {
    this.#position = await this.#findPosition();
    for (;;) {
      const { heads, position, unread, isNews, isLast } = await this.#readTable(this.#position);
      if (this.#isStopped) return;
      // Anchors alone call for none, or those of several processes would for ever: they are read again with what comes next.
      if (heads.length > 0 && !isNews && isLast) return;
      if (heads.length > 0) await this.#context.log.record(vaultActor, anchorsOf(heads));
      this.#position = position;
      this.#unread ??= unread;
      if (heads.length > 0) await this.#anchorLog();
      if (isLast) return;
    }
  }

  /** In the table; it says up to where the log has vouched for that. */
  async #anchorLog(): Promise<void> {
    const { log, journal } = this.#context;
    const { head, uses } = log;
    if (head === null) return;
    const details = this.#position === null ? {} : { details: { anchored_to: this.#vouchedTo(this.#position) } };
    await journal.note(vaultActor, { act: anchorAct, outcome: 'done', ...details, heads: [head] });
    this.#uses = uses;
  }

  /** Up to where another process need not look again: one that has the key of what this one could not vouch for does so within a day. */
  #vouchedTo(position: number): number {
    if (this.#unread === null || this.#unread.timeMs < Date.now() - unreadMs) return position;
    return Math.min(position, this.#unread.position - 1);
  }

  /**
   * For what the command line has written, and services that were killed, the first anchor after them vouches. Where the table ends
   * before the place where this process was, it has been cut, and the places behind may have been given again.
   */
  async #findPosition(): Promise<number> {
    const position = this.#position ?? (await this.#lastAnchored());
    if (position <= (await this.#context.store.lastPosition())) return position;
    this.#unread = null;
    return 0;
  }

  /** As the last authentic anchor in the table says; 0 where it is not found. */
  async #lastAnchored(): Promise<number> {
    let searched = 0;
    for await (const { line } of this.#context.store.allBackwards(pageRows)) {
      const record = line.includes('"anchored_to":') ? this.#read(line) : null;
      const { act, details } = record?.isAuthentic === true ? record.fields : {};
      const anchoredTo = (details as { anchored_to?: unknown } | undefined)?.anchored_to;
      if (act === anchorAct && typeof anchoredTo === 'number') return anchoredTo;
      searched += 1;
      if (searched === maxSearched) break;
    }
    return 0;
  }

  /** What is not authentic is vouched for in nothing: whoever can write the table alone has written it. */
  async #readTable(after: number): Promise<TablePart> {
    const heads = new Map<string, ChainHead>();
    let [position, read, isNews, unread] = [after, 0, false, null as UnreadRecord | null];
    for await (const row of this.#context.store.allAfter(after, pageRows)) {
      ({ position } = row);
      const record = this.#read(row.line);
      if (record?.isAuthentic === false && timeOf(record) > Date.now() - unreadMs)
        unread ??= { position, timeMs: timeOf(record) };
      if (record?.isAuthentic === true) {
        isNews ||= record.fields.act !== anchorAct;
        const { chain, sequence: seq, mac } = record;
        if (seq > (heads.get(chain)?.seq ?? 0)) heads.set(chain, { sink: 'database', chain, seq, mac });
      }
      read += 1;
      if (read === recordsAtOnce) break;
    }
    return { heads: [...heads.values()], position, unread, isNews, isLast: read < recordsAtOnce };
  }

  #read(line: string): ReadRecord | null {
    return readRecord(line, (keyId) => this.#context.keys.find(keyId));
  }
}

function timeOf({ fields: { time } }: ReadRecord): number {
  return typeof time === 'string' ? Date.parse(time) : 0;
}

function anchorsOf(heads: readonly ChainHead[]): AuditEvent[] {
  const events: AuditEvent[] = [];
  for (let from = 0; from < heads.length; from += maxHeads) {
    events.push({ act: anchorAct, outcome: 'done', heads: heads.slice(from, from + maxHeads) });
  }
  return events;
}
