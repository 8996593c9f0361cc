/** Follows one chain through its records in stored order, and distinguishes a missing record from one that was never written. */

import { follows, type ReadRecord } from '../crypto/audit-chain.ts';

export type FindingKind = 'broken' | 'missing' | 'reordered' | 'unknown_key';

export interface Place {
  readonly order: number;
  readonly place: string;
}

interface Gap extends Place {
  /** Whether a later record says that this one had been written by then. */
  isOverdue: boolean;
  /** Whether a record says that this one was never written. */
  isVoid: boolean;
  /** Whether it may have been pruned with the beginning. */
  readonly isPruned: boolean;
  /** Whether neither the record before the gap nor the one after it can be verified. */
  readonly isUnverified: boolean;
  isBroken: boolean;
}

interface Range {
  readonly from: number;
  readonly to: number;
  readonly at: Place;
}

type Report = (kind: FindingKind, message: string) => void;

/** A gap of at most this many numbers waits for each record individually; the records of a larger one are missing. */
const maxGap = 100;

export class ChainReader {
  readonly #chain: string;
  readonly #isPruned: boolean;
  /** Whether every record so far may have been signed before the first remaining one was written. */
  #isAtEdge: boolean;
  /** Numbers that were passed without their record. */
  readonly #gaps = new Map<number, Gap>();
  /** The `mac` of records whose successor has not been read, and the `prev` of those whose predecessor has not. */
  readonly #macs = new Map<number, string>();
  readonly #previous = new Map<number, string>();
  readonly #brokenAhead = new Set<number>();
  readonly #reported = new Set<number>();
  readonly #lost: Range[] = [];
  /** Numbers that the newest record names as not yet written. */
  #open: ReadonlySet<number> = new Set();
  /** The number of the first record read, in stored order; 0 before that. */
  #firstRead = 0;
  #last = 0;
  /** Whether the previous record could not be verified. */
  #isUnverified = false;

  /**
   * `isPruned`: records may have been removed from the beginning. `isAtEdge`: they may include records of this chain that were
   * written beside the first remaining one.
   */
  constructor(chain: string, isPruned: boolean, isAtEdge: boolean) {
    this.#chain = chain;
    this.#isPruned = isPruned;
    this.#isAtEdge = isAtEdge;
  }

  /** The highest number read. */
  get last(): number {
    return this.#last;
  }

  /** Whether this record has been reported as missing or broken; call after {@link end}. */
  isReported(sequence: number): boolean {
    return (
      this.#reported.has(sequence) ||
      this.#brokenAhead.has(sequence) ||
      this.#lost.some(({ from, to }) => from <= sequence && sequence <= to)
    );
  }

  /** Whether this record may have been pruned with the beginning; call after {@link end}. */
  isPruned(sequence: number): boolean {
    return this.#isPruned && (sequence < this.#firstRead || this.#gaps.get(sequence)?.isPruned === true);
  }

  noteBroken(sequence: number): void {
    const gap = this.#gaps.get(sequence);
    if (gap === undefined) this.#brokenAhead.add(sequence);
    else gap.isBroken = true;
  }

  /** What a record says of others counts only if the record can be verified. */
  read(record: ReadRecord, at: Place, report: Report): void {
    const { sequence, isAuthentic } = record;
    const open = numbersIn(record, 'open');
    if (sequence > this.#last) this.#advance(record, at, open);
    else if (!this.#fill(sequence, report)) return;
    if (isAuthentic) this.#settleGaps(sequence, open, numbersIn(record, 'void'));
    this.#isUnverified = !isAuthentic;
    this.#link(record, report);
  }

  #settleGaps(sequence: number, open: ReadonlySet<number>, gone: ReadonlySet<number>): void {
    for (const [number, gap] of this.#gaps) {
      if (number >= sequence) continue;
      if (gone.has(number)) gap.isVoid = true;
      else if (!open.has(number)) gap.isOverdue = true;
    }
  }

  /** Reports the records that never came. */
  end(report: (message: string, at: Place) => void): void {
    for (const { from, to, at } of this.#lost) report(this.#describe(from, to), at);
    const missing = [...this.#gaps].filter(([number, gap]) => {
      const isExcused = gap.isVoid || gap.isPruned || gap.isUnverified || this.#open.has(number);
      if (gap.isBroken || !isExcused) this.#reported.add(number);
      return !gap.isBroken && !isExcused;
    });
    for (const { from, to, at } of rangesOf(missing)) report(this.#describe(from, to), at);
  }

  #describe(from: number, to: number): string {
    return `${from === to ? `Record ${from}` : `Records ${from} to ${to}`} of chain ${this.#chain} should come before this one.`;
  }

  /** Takes a record with a higher number than any before. */
  #advance({ sequence, isAuthentic, fields: { act } }: ReadRecord, at: Place, open: ReadonlySet<number>): void {
    const isFirst = this.#firstRead === 0;
    if (isFirst) this.#firstRead = sequence;
    const isUnverified = this.#isUnverified && !isAuthentic;
    if (isFirst && this.#isPruned) for (const number of open) this.#await(number, at, false);
    else this.#awaitAll(this.#last + 1, sequence - 1, at, isUnverified);
    // A service's first record is written alone. A record that names the first remaining one as not yet written was signed beside
    // it; others signed then may have been stored before it, and pruned.
    if (isFirst ? act === 'audit.start' : !open.has(this.#firstRead)) this.#isAtEdge = false;
    this.#last = sequence;
    if (isAuthentic) this.#open = open;
  }

  #awaitAll(from: number, to: number, at: Place, isUnverified: boolean): void {
    if (to - from < maxGap) for (let number = from; number <= to; number += 1) this.#await(number, at, isUnverified);
    else if (!isUnverified) this.#lost.push({ from, to, at });
  }

  #await(number: number, at: Place, isUnverified: boolean): void {
    const isBroken = this.#brokenAhead.has(number);
    this.#gaps.set(number, { ...at, isOverdue: false, isVoid: false, isPruned: this.#isAtEdge, isUnverified, isBroken });
  }

  /** Takes a record that follows one with a higher number. Returns false if it has been read before. */
  #fill(sequence: number, report: Report): boolean {
    const gap = this.#gaps.get(sequence);
    if (gap === undefined) {
      report('reordered', `Record ${sequence} of chain ${this.#chain} occurs here again, or after a later record.`);
      return false;
    }
    if (gap.isOverdue) report('reordered', `Record ${sequence} of chain ${this.#chain} occurs after a later record.`);
    this.#gaps.delete(sequence);
    return true;
  }

  #link(record: ReadRecord, report: Report): void {
    const { sequence, mac, previous } = record;
    const before = sequence === 1 ? null : this.#macs.get(sequence - 1);
    if (before === undefined) this.#previous.set(sequence, previous);
    else if (!follows(record, before)) this.#reportLink(sequence, report);
    this.#macs.delete(sequence - 1);
    const expected = this.#previous.get(sequence + 1);
    if (expected === undefined) this.#macs.set(sequence, mac);
    else if (expected !== mac) this.#reportLink(sequence + 1, report);
    this.#previous.delete(sequence + 1);
  }

  #reportLink(sequence: number, report: Report): void {
    report('broken', `Record ${sequence} of chain ${this.#chain} does not follow the one before it.`);
  }
}

function numbersIn({ isAuthentic, fields }: ReadRecord, name: string): ReadonlySet<number> {
  const numbers = fields[name];
  return new Set(isAuthentic && Array.isArray(numbers) ? (numbers as number[]) : []);
}

/** Joins consecutive numbers that are missing at the same place. */
function rangesOf(missing: readonly (readonly [number, Place])[]): Range[] {
  const ranges: { from: number; to: number; at: Place }[] = [];
  for (const [number, at] of missing.toSorted(([left], [right]) => left - right)) {
    const last = ranges.at(-1);
    if (last !== undefined && last.to === number - 1 && last.at.order === at.order) last.to = number;
    else ranges.push({ from: number, to: number, at });
  }
  return ranges;
}
