/**
 * Anchors the two sinks in each other, at intervals and at a clean shutdown: each records how far the other's chains have come.
 */

import { type ReadRecord, readRecord } from '../crypto/audit-chain.ts';
import { Repetition } from '../runtime/repetition.ts';
import { withTimeout } from '../runtime/with-timeout.ts';
import type { AuditStore } from '../store/audit.ts';
import { type AuditEvent, type ChainHead, vaultActor } from './event.ts';
import type { AuditJournal } from './journal.ts';
import type { AuditKeys } from './keys.ts';
import type { AuditLog } from './log.ts';

const startAct = 'audit.start';
const anchorAct = 'audit.anchor';
/** How long the last anchor, at shutdown, may take. */
const lastAnchorMs = 2_000;
/** This many heads fit into a record of a few kilobytes. */
const maxHeads = 20;
/** Table records vouched for in one step: if the rest is cut off, this step stands. */
const recordsAtOnce = 2_000;
/** Rows per read, which runs on the thread that answers requests. */
const pageRows = 200;
/**
 * How far back the last anchor is searched for. It is within this range unless a process died between two anchors; if it is not
 * found, the table is vouched for from its beginning.
 */
const maxSearched = 10_000;
/** For this long, records whose key this process lacks are left to other processes. */
const unreadMs = 86_400_000;

export interface AnchorsContext {
  readonly log: AuditLog;
  readonly journal: AuditJournal;
  readonly store: AuditStore;
  readonly keys: AuditKeys;
  readonly intervalMs: number;
  /** Details of the first records, which describe this process. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** A record whose key is not in the keyring: another process may have it. */
interface UnreadRecord {
  readonly position: number;
  /** Unix milliseconds, as the record claims. */
  readonly timeMs: number;
}

/** Table records that were read in one step. */
interface TablePart {
  /** The last authentic record of every chain among them. */
  readonly heads: readonly ChainHead[];
  /** The position of the last of them. */
  readonly position: number;
  /** The first record less than a day old whose key is not in the keyring, or null. */
  readonly unread: UnreadRecord | null;
  /** Whether any of them is something other than an anchor. */
  readonly isNews: boolean;
  readonly isLast: boolean;
}

export class Anchors {
  readonly #context: AnchorsContext;
  #repetition: Repetition | null = null;
  #underWay: Promise<void> | null = null;
  /** The number of key uses in the log that the table has vouched for. */
  #uses = 0;
  /** Up to where this process has read the table and the log has vouched for it; null before the first time. */
  #position: number | null = null;
  /** The first record that this process could not vouch for. */
  #unread: UnreadRecord | null = null;
  #isStopped = false;

  constructor(context: AnchorsContext) {
    this.#context = context;
  }

  /**
   * Begins both chains: the log's first record names the table's last one, and the table's names the log's first. Throws
   * StorageUnavailableError, and may then be called again.
   */
  async start(): Promise<void> {
    const { log, journal, store, keys, intervalMs, details } = this.#context;
    await keys.refresh();
    const { heads } = await this.#readTable((await store.lastPosition()) - 1);
    // If the sink accepts nothing the vault starts all the same, and refuses to use keys until it does.
    if (log.head === null)
      await log.record(vaultActor, [{ act: startAct, outcome: 'done', details, heads }]).catch(() => undefined);
    const own = log.head === null ? [] : [log.head];
    await journal.note(vaultActor, { act: startAct, outcome: 'done', details, heads: [...own, ...heads] });
    this.#repetition = new Repetition(intervalMs, () => this.anchor());
  }

  /** Best effort: whatever could not be anchored is anchored next time. */
  anchor(): Promise<void> {
    this.#underWay ??= this.#anchor().finally(() => {
      this.#underWay = null;
    });
    return this.#underWay;
  }

  /** Anchors once more, without waiting long for a database that does not answer. */
  async stop(): Promise<void> {
    if (this.#repetition === null) return;
    void this.#repetition.stop();
    // An anchor already under way may have missed the latest records.
    const last = (this.#underWay ?? Promise.resolve()).then(() => this.anchor());
    await withTimeout(last, lastAnchorMs, () => undefined);
    this.#isStopped = true;
  }

  async #anchor(): Promise<void> {
    const { keys, log } = this.#context;
    const anchorUses = async (): Promise<void> => {
      if (log.uses !== this.#uses) await this.#anchorLog().catch(() => undefined);
    };
    await keys.refresh();
    // The first time there may be much to read, and a stop does not wait for it.
    if (this.#position === null) await anchorUses();
    await this.#anchorTable().catch(() => undefined);
    await anchorUses();
  }

  async #anchorTable(): Promise<void> {
    this.#position = await this.#findPosition();
    for (;;) {
      const { heads, position, unread, isNews, isLast } = await this.#readTable(this.#position);
      if (this.#isStopped) return;
      // Anchors alone need no new anchor, or several processes would go on anchoring each other forever; they are read again with
      // the next records.
      if (heads.length > 0 && !isNews && isLast) return;
      if (heads.length > 0) await this.#context.log.record(vaultActor, anchorsOf(heads));
      this.#position = position;
      this.#unread ??= unread;
      if (heads.length > 0) await this.#anchorLog();
      if (isLast) return;
    }
  }

  /** Anchors the log in the table; `anchored_to` is the position up to which the log vouches for the table. */
  async #anchorLog(): Promise<void> {
    const { log, journal } = this.#context;
    const { head, uses } = log;
    if (head === null) return;
    const details = this.#position === null ? {} : { details: { anchored_to: this.#vouchedTo(this.#position) } };
    await journal.note(vaultActor, { act: anchorAct, outcome: 'done', ...details, heads: [head] });
    this.#uses = uses;
  }

  /**
   * The position before which another process need not look again. Records whose key this process lacks are left for a day to one
   * that has it.
   */
  #vouchedTo(position: number): number {
    if (this.#unread === null || this.#unread.timeMs < Date.now() - unreadMs) return position;
    return Math.min(position, this.#unread.position - 1);
  }

  /**
   * Where to continue reading. The first anchor after them also vouches for what the command line and killed services wrote. A
   * table that ends before this process's position was truncated, and its positions may have been reused: it is read from the
   * beginning.
   */
  async #findPosition(): Promise<number> {
    const position = this.#position ?? (await this.#lastAnchored());
    if (position <= (await this.#context.store.lastPosition())) return position;
    this.#unread = null;
    return 0;
  }

  /** The position in the last authentic anchor of the table, or 0 if none is found. */
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

  /** Nothing vouches for records that are not authentic: write access to the table is enough to make them. */
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
