/** Whatever runs beside each other, fails, or is cut off by a crash: what is in the table verifies, and a record taken from it is missed. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vaultActor } from '../../src/audit/event.ts';
import { AuditJournal } from '../../src/audit/journal.ts';
import { AuditKeys } from '../../src/audit/keys.ts';
import { verifyAudit } from '../../src/audit/verify.ts';
import type { ChainedRecord } from '../../src/crypto/audit-chain.ts';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { AuditStore } from '../../src/store/audit.ts';
import { Database } from '../../src/store/database.ts';
import { temporaryDatabase } from '../support/vault.ts';

const keyring = new Keyring([{ source: 'PROVARA_MASTER_KEY', key: parseMasterKey('a1'.repeat(32)) }]);

interface UnderWay {
  readonly record: ChainedRecord;
  readonly settle: (isCommitted: boolean) => void;
}

/** How a write says that it was not made. */
const notMade = [() => Promise.reject(new Error('not written')), async () => null, async () => false];

/** Not written to: the journal hands its records to the table below. */
async function openStore(): Promise<AuditStore> {
  return new AuditStore(new Database({ url: (await temporaryDatabase()).url }));
}

/** A journal over a table that commits when it is told to. */
function start(store: AuditStore) {
  const journal = new AuditJournal(store, new AuditKeys(keyring, async () => null));
  const table: ChainedRecord[] = [];
  const underWay: UnderWay[] = [];
  const begin = (): void => {
    const write = (record: ChainedRecord): Promise<unknown> =>
      new Promise((resolve) => {
        const settle = (isCommitted: boolean): void => {
          if (isCommitted) table.push(record);
          resolve(isCommitted ? undefined : notMade[record.sequence % notMade.length]?.());
        };
        underWay.push({ record, settle });
      });
    journal.recorded(vaultActor, { act: 'key.store', outcome: 'done' }, write).catch(() => undefined);
  };
  const settle = async (index: number, isCommitted: boolean): Promise<ChainedRecord | undefined> => {
    const [chosen] = underWay.splice(index % Math.max(1, underWay.length), 1);
    chosen?.settle(isCommitted);
    await nextTurn();
    return chosen?.record;
  };
  return { table, begin, settle };
}

async function verify(records: readonly ChainedRecord[]): Promise<string[]> {
  const lines = async function* () {
    for (const [index, { line }] of records.entries()) yield { line, place: String(index + 1) };
  };
  return (await verifyAudit([{ sink: 'database', lines }], keyring, { isPruned: false })).findings.map(({ kind }) => kind);
}

interface Step {
  readonly kind: 'begin' | 'commit' | 'fail';
  readonly index: number;
}

const schedules: fc.Arbitrary<Step[]> = fc.array(
  fc.record({ kind: fc.constantFrom('begin', 'begin', 'commit', 'commit', 'fail'), index: fc.nat(20) }),
  { minLength: 1, maxLength: 60 },
);

/** The table that a schedule leaves, and how many had begun when each record of it was acknowledged. */
async function run(store: AuditStore, schedule: readonly Step[]) {
  const { table, begin, settle } = start(store);
  const begunBefore = new Map<ChainedRecord, number>();
  let begun = 0;
  for (const { kind, index } of schedule) {
    if (kind === 'begin') {
      begin();
      begun += 1;
      continue;
    }
    const record = await settle(index, kind === 'commit');
    if (record !== undefined && kind === 'commit') begunBefore.set(record, begun);
  }
  return { table, begunBefore };
}

describe('records that are written beside each other', () => {
  it('verify in the order of their commits, wherever a crash ends them; one that was acknowledged cannot be taken out', async () => {
    const store = await openStore();
    const property = fc.asyncProperty(schedules, async (schedule) => {
      const { table, begunBefore } = await run(store, schedule);
      expect(await verify(table)).toEqual([]);
      const newest = Math.max(0, ...table.map(({ sequence }) => sequence));
      const settled = [...begunBefore].filter(([, begun]) => newest > begun).map(([record]) => record);
      for (const record of settled) {
        // With it goes what it said of others.
        expect(new Set(await verify(table.filter((each) => each !== record)))).toEqual(new Set(['missing']));
      }
    });
    await fc.assert(property, { numRuns: 100 });
  });

  it('verify after an outage in which very many failed', async () => {
    const { table, begin, settle } = start(await openStore());
    const one = async (isCommitted: boolean): Promise<void> => {
      begin();
      await settle(0, isCommitted);
    };
    await one(true);
    for (let index = 0; index < 350; index += 1) await one(false);
    await one(true);
    await one(true);
    expect(await verify(table)).toEqual([]);
    expect(table.every(({ line }) => line.length < 2_000)).toBe(true);
    expect(await verify(table.slice(0, 2))).toEqual([]);
    expect(await verify([...table.slice(0, 1), ...table.slice(2)])).toEqual(['missing']);
  });
});
