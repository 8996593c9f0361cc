/** Signs audit records in a chain, each together with the `mac` of the one before. docs/audit.md specifies the bytes. */

import { createHmac, type KeyObject, randomBytes, timingSafeEqual } from 'node:crypto';
import { auditKeyOf, type MasterKey } from './master-key.ts';

/** How every record begins, in either sink. */
export const recordStart = '{"audit":1,';
/** Stands for the predecessor's `mac` in the first record of a chain. */
const noRecord = '0'.repeat(64);
const macEnd = /,"mac":"([0-9a-f]{64})"\}$/;

export interface ChainedRecord {
  readonly chain: string;
  /** Starts at 1. */
  readonly sequence: number;
  readonly mac: string;
  /** The stored form: one line of JSON, without the line feed. */
  readonly line: string;
}

/** A record that was read: authentic, or not verifiable because its key is missing. */
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

  /** Appends the next record, signed under the audit subkey of this master key. `fields` come after the chain's own. */
  append(key: MasterKey, fields: Readonly<Record<string, unknown>>, time = new Date()): ChainedRecord {
    const sequence = this.#sequence + 1;
    // Ids, digits and hex need no escaping, and serializing one object of all fields would take longer than signing.
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
 * Null if the line is not a record, or is not authentic under the key that it names. If that key is not found, the record is
 * returned with `isAuthentic` false, for the caller to report.
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

/** The fields of a line, without verifying them; null if it is not a record. */
export function parseRecord(line: string): Record<string, unknown> | null {
  if (!line.startsWith(recordStart)) return null;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return null;
  }
}

/** Whether the record's predecessor has this `mac`; with null, whether it is the first of its chain. */
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
