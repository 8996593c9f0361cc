/** Verifies stored audit records, and names whatever is broken, missing or out of place among them. */

import { type ReadRecord, readRecord, recordStart } from '../crypto/audit-chain.ts';
import type { Keyring } from '../crypto/keyring.ts';
import { textOfLine } from '../runtime/lines.ts';
import { ChainReader, type FindingKind, type Place } from './chain-reader.ts';
import type { ChainHead } from './event.ts';

/** Records in stored order: the table, or one or more files of the log, oldest first. */
export interface AuditSource {
  readonly sink: 'log' | 'database';
  /** Called twice. */
  readonly lines: () => AsyncIterable<SourceLine>;
}

interface SourceLine {
  readonly line: string;
  /** Such as `audit.log:12`, for people. */
  readonly place: string;
}

interface Finding {
  readonly kind: FindingKind;
  readonly place: string;
  readonly message: string;
}

export interface AuditReport {
  readonly records: number;
  readonly chains: number;
  /** In the order in which they occur in the sources. */
  readonly findings: readonly Finding[];
  /** Anchors about a sink that was not read. */
  readonly anchorsUnchecked: number;
}

export interface VerifyOptions {
  /** Whether records may have been removed from the beginning: retention is up to the operator. */
  readonly isPruned: boolean;
}

/** The chain and number that a record claims which is not authentic. */
const claimedPlace = /^\{"audit":1,"chain":"([0-9a-f]+)","seq":(\d+),/;

/** Longer than any write takes from signing its record to its commit. */
const longestWriteMs = 60_000;

interface Anchor extends ChainHead {
  readonly place: string;
}

/** Consecutive records of a chain, in stored order, all under the same missing key. */
interface UnverifiedRun {
  readonly keyId: string;
  from: number;
  to: number;
  records: number;
  readonly at: Place;
}

/** Memory use depends on the anchors and on records out of order, not on the number of records. */
export async function verifyAudit(
  sources: readonly AuditSource[],
  keyring: Pick<Keyring, 'get'>,
  options: VerifyOptions,
): Promise<AuditReport> {
  const verification = new Verification(keyring, options);
  for (const source of sources) await verification.findAnchors(source);
  for (const source of sources) await verification.readAll(source);
  return verification.end(new Set(sources.map(({ sink }) => sink)));
}

class Verification {
  readonly #keyring: Pick<Keyring, 'get'>;
  readonly #options: VerifyOptions;
  /** By record and `mac`: if two anchors differ about one record, at least one of them is contradicted. */
  readonly #anchors = new Map<string, Anchor>();
  /** The `mac` of each record named by an anchor; null until it has been read. */
  readonly #anchored = new Map<string, string | null>();
  readonly #chains = new Map<string, ChainReader>();
  /**
   * By chain. A run's finding gives its extent, so that no record can be added to it, removed from it or passed off as part of it
   * unnoticed.
   */
  readonly #unverified = new Map<string, UnverifiedRun>();
  /** Chains that lack an anchored record: reported once, for the last such record. */
  readonly #cut = new Set<string>();
  readonly #findings: { readonly order: number; readonly finding: Finding }[] = [];
  #records = 0;
  /** Records removed from the beginning of the table were signed before this time. */
  #edgeMs = Number.POSITIVE_INFINITY;
  #order = 0;

  constructor(keyring: Pick<Keyring, 'get'>, options: VerifyOptions) {
    this.#keyring = keyring;
    this.#options = options;
  }

  /**
   * Collects the anchors in authentic records, and finds where a pruned table begins. That is the earliest of its records, and not
   * the first one: whole chains may have been moved.
   */
  async findAnchors({ sink, lines }: AuditSource): Promise<void> {
    const hasEdge = this.#options.isPruned && sink === 'database';
    for await (const { line, place } of lines()) {
      const record = hasEdge || line.includes('"heads":[') ? this.#parse(line) : null;
      if (record?.isAuthentic !== true) continue;
      if (hasEdge) this.#edgeMs = Math.min(this.#edgeMs, timeOf(record) + longestWriteMs);
      if (!Array.isArray(record.fields.heads)) continue;
      for (const head of record.fields.heads as ChainHead[]) {
        const name = nameOf(head.chain, head.seq);
        this.#anchors.set(`${name}:${head.mac}`, { ...head, place });
        this.#anchored.set(name, null);
      }
    }
  }

  async readAll({ sink, lines }: AuditSource): Promise<void> {
    for await (const { line, place } of lines()) {
      this.#order += 1;
      this.#read(sink, line, { order: this.#order, place });
    }
  }

  end(sinks: ReadonlySet<string>): AuditReport {
    for (const chain of this.#unverified.keys()) this.#endUnverified(chain);
    for (const chain of this.#chains.values()) chain.end((message, at) => this.#report('missing', message, at));
    const checked = [...this.#anchors.values()].filter(({ sink }) => sinks.has(sink));
    for (const anchor of checked.toSorted((left, right) => right.seq - left.seq)) this.#checkAnchor(anchor);
    const ordered = this.#findings.toSorted((left, right) => left.order - right.order);
    return {
      records: this.#records,
      chains: this.#chains.size,
      findings: ordered.map(({ finding }) => finding),
      anchorsUnchecked: this.#anchors.size - checked.length,
    };
  }

  #parse(line: string): ReadRecord | null {
    return readRecord(line, (keyId) => this.#keyring.get(keyId));
  }

  #report(kind: FindingKind, message: string, { order, place }: Place): void {
    this.#findings.push({ order, finding: { kind, place, message } });
  }

  #read(sink: AuditSource['sink'], line: string, at: Place): void {
    const record = this.#parse(line);
    if (record === null) {
      this.#report('broken', 'It is not authentic: edited, damaged, or made by somebody without the master key.', at);
      const [, chain = '', sequence] = claimedPlace.exec(line) ?? [];
      this.#chains.get(chain)?.noteBroken(Number(sequence));
      return;
    }
    this.#records += 1;
    if (record.isAuthentic) this.#endUnverified(record.chain);
    else this.#noteUnverified(record, at);
    const name = nameOf(record.chain, record.sequence);
    if (this.#anchored.has(name)) this.#anchored.set(name, record.mac);
    const chain =
      this.#chains.get(record.chain) ?? new ChainReader(record.chain, this.#options.isPruned, this.#isAtEdge(sink, record));
    this.#chains.set(record.chain, chain);
    chain.read(record, at, (kind, message) => this.#report(kind, message, at));
  }

  #noteUnverified({ chain, sequence, keyId }: ReadRecord, at: Place): void {
    if (this.#unverified.get(chain)?.keyId !== keyId) this.#endUnverified(chain);
    const run = this.#unverified.get(chain) ?? { keyId, from: sequence, to: sequence, records: 0, at };
    this.#unverified.set(chain, run);
    run.from = Math.min(run.from, sequence);
    run.to = Math.max(run.to, sequence);
    run.records += 1;
  }

  #endUnverified(chain: string): void {
    const run = this.#unverified.get(chain);
    if (run === undefined) return;
    this.#unverified.delete(chain);
    const { keyId, from, to, records, at } = run;
    const which = records === 1 ? `Record ${from}` : `${records} records, ${from} to ${to},`;
    this.#report('unknown_key', `${which} of chain ${chain} cannot be verified: add the master key ${keyId} to the keyring.`, at);
  }

  /**
   * Whether pruning may have removed records of this chain that were written beside this one. The log keeps records in the order
   * of their numbers; in a pruned table it is possible only for records signed before the edge.
   */
  #isAtEdge(sink: AuditSource['sink'], record: ReadRecord): boolean {
    return this.#options.isPruned && sink === 'database' && record.isAuthentic && timeOf(record) <= this.#edgeMs;
  }

  #checkAnchor({ chain, seq, mac, place }: Anchor): void {
    const found = this.#anchored.get(nameOf(chain, seq)) ?? null;
    if (found === mac) return;
    // Sorted after all findings that have a place of their own.
    const at = { order: Number.POSITIVE_INFINITY, place };
    if (found !== null) {
      this.#report('broken', `Record ${seq} of chain ${chain} is not the one that is anchored here.`, at);
      return;
    }
    const reader = this.#chains.get(chain);
    if (reader?.isReported(seq)) return;
    if (this.#options.isPruned && reader?.isPruned(seq) !== false) return;
    if (this.#cut.has(chain)) return;
    this.#cut.add(chain);
    const last = reader === undefined ? 'nothing of that chain is there' : `the last one there is ${reader.last}`;
    this.#report('missing', `Record ${seq} of chain ${chain}, which is anchored here, is missing: ${last}.`, at);
  }
}

function timeOf({ fields: { time } }: ReadRecord): number {
  return Date.parse(String(time));
}

function nameOf(chain: string, sequence: number): string {
  return `${chain}:${sequence}`;
}

/**
 * The part of a log line that is a record, or null: a log may hold other lines, and other programs may have put a prefix before
 * the record.
 */
export function recordIn(line: Buffer): string | null {
  const start = line.indexOf(recordStart);
  return start === -1 ? null : textOfLine(line.subarray(start)).trimEnd();
}
