/** Signs audit records one after the other, each together with the one before: see docs/audit.md for the bytes. */

import { createHmac, type KeyObject, randomBytes, timingSafeEqual } from 'node:crypto';
import { auditKeyOf, type MasterKey } from './master-key.ts';

/** What every record begins with, wherever it stands. */
export const recordStart = '{"audit":1,';
/** What the first record of a chain has in place of the one before it. */
const noRecord = '0'.repeat(64);
const macEnd = /,"mac":"([0-9a-f]{64})"\}$/;

export interface ChainedRecord {
  readonly chain: string;
  /** From 1. */
  readonly sequence: number;
  readonly mac: string;
  /** The record as it is kept: one line of JSON, without its end. */
  readonly line: string;
}

/** A record that has been read and found authentic, or whose key is not there. */
export interface ReadRecord extends ChainedRecord {
  readonly keyId: string;
  /** The `mac` of the record before it. */
  readonly previous: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly isAuthentic: boolean;
}

export class AuditChain {
  readonly id = randomBytes(16).toString('hex');
  #sequence = 0;
  #mac = noRecord;

  /** The next record, signed under the audit subkey of this master key. `fields` come after the chain's own. */
  append(key: MasterKey, fields: Readonly<Record<string, unknown>>, time = new Date()): ChainedRecord {
    const sequence = this.#sequence + 1;
    // Ids, digits and hex need no escaping; and one object of all fields would take longer to write than to sign.
    const own = `${recordStart}"chain":"${this.id}","seq":${sequence},"time":"${time.toISOString()}","key_id":"${key.id}","prev":"${this.#mac}"`;
    const rest = JSON.stringify(fields).slice(1, -1);
    const signed = rest === '' ? own : `${own},${rest}`;
    const mac = macOf(key, signed);
    this.#sequence = sequence;
    this.#mac = mac;
    return { chain: this.id, sequence, mac, line: `${signed},"mac":"${mac}"}` };
  }
}

/**
 * Null where the line is no record, or is not authentic under the key that it names. A record whose key is not found comes
 * back as not authentic, for the caller to say so.
 */
export function readRecord(line: string, findKey: (keyId: string) => MasterKey | undefined): ReadRecord | null {
  const fields = parseRecord(line);
  const [end = '', mac = ''] = macEnd.exec(line) ?? [];
  if (fields === null || mac === '') return null;
  const { chain, seq, key_id, prev } = fields;
  if (typeof chain !== 'string' || typeof key_id !== 'string' || typeof prev !== 'string') return null;
  if (typeof seq !== 'number' || !Number.isSafeInteger(seq) || seq < 1) return null;
  const key = findKey(key_id);
  if (key !== undefined && !isSame(macOf(key, line.slice(0, -end.length)), mac)) return null;
  return { chain, sequence: seq, mac, line, keyId: key_id, previous: prev, fields, isAuthentic: key !== undefined };
}

/** What a line says, believed or not; null where it is no record at all. */
export function parseRecord(line: string): Record<string, unknown> | null {
  if (!line.startsWith(recordStart)) return null;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return null;
  }
}

/** Whether the record before this one is that of this `mac`; of the first, that there is none. */
export function follows(record: ReadRecord, mac: string | null): boolean {
  return record.previous === (mac ?? noRecord);
}

const subkeys = new WeakMap<MasterKey, KeyObject>();

function macOf(key: MasterKey, signed: string): string {
  const subkey = subkeys.get(key) ?? auditKeyOf(key);
  subkeys.set(key, subkey);
  return createHmac('sha256', subkey).update(signed, 'utf8').digest('hex');
}

function isSame(left: string, right: string): boolean {
  return timingSafeEqual(Buffer.from(left, 'hex'), Buffer.from(right, 'hex'));
}
