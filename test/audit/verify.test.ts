/** Whoever edits, removes, inserts or moves records without a master key is found out, and what only looks like it is not reported. */

import { describe, expect, it } from 'vitest';
import { recordIn, verifyAudit } from '../../src/audit/verify.ts';
import { AuditChain } from '../../src/crypto/audit-chain.ts';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import frozen from './data/audit-vectors.json' with { type: 'json' };

const keyA = 'a1'.repeat(32);
const keyB = 'b2'.repeat(32);
const master = parseMasterKey(keyA);
const keyring = new Keyring([{ source: 'PROVARA_MASTER_KEY', key: master }]);

/** A chain of so many records, and its lines. */
function chainOf(length: number, fields: Record<number, Record<string, unknown>> = {}): string[] {
  const chain = new AuditChain();
  return Array.from({ length }, (_, index) => chain.append(master, { act: 'key.decrypt', ...fields[index + 1] }).line);
}

async function* placed(lines: readonly string[]) {
  for (const [index, line] of lines.entries()) yield { line, place: String(index + 1) };
}

async function verify(lines: readonly string[], { isPruned = false, table = null as readonly string[] | null } = {}) {
  const log = { sink: 'log' as const, lines: () => placed(lines) };
  const sources = table === null ? [log] : [{ sink: 'database' as const, lines: () => placed(table) }, log];
  return verifyAudit(sources, keyring, { isPruned });
}

const kindsOf = async (lines: readonly string[], options = {}): Promise<string[]> =>
  (await verify(lines, options)).findings.map(({ kind, place }) => `${kind} ${place}`);

const without = (lines: readonly string[], ...numbers: number[]): string[] =>
  lines.filter((_, index) => !numbers.includes(index + 1));

describe('a chain', () => {
  it('that is whole has no finding, among lines of others', async () => {
    const mixed = [...chainOf(3), ...chainOf(1), ...chainOf(5)];
    expect(await verify(mixed)).toEqual({ records: 9, chains: 3, findings: [], anchorsUnchecked: 0 });
  });

  it('is what it was: the frozen records verify under their key, by the bytes that the documents name', async () => {
    expect(await verify(frozen.lines)).toMatchObject({ records: frozen.lines.length, findings: [] });
  });

  it('shows every edited byte of a record', async () => {
    const lines = chainOf(3);
    const edited = lines[1] ?? '';
    const keyIdAt = edited.indexOf(master.id);
    for (let index = 0; index < edited.length; index += 1) {
      const changed = edited.slice(0, index) + (edited[index] === '0' ? '1' : '0') + edited.slice(index + 1);
      const [first] = await kindsOf(lines.with(1, changed));
      const isKeyId = index >= keyIdAt && index < keyIdAt + master.id.length;
      expect(first, `byte ${index}`).toBe(isKeyId ? 'unknown_key 2' : 'broken 2');
    }
  });

  it('names the first of several that are edited, and calls none of them missing', async () => {
    const lines = chainOf(6).map((line, index) => (index === 2 || index === 4 ? line.replace('decrypt', 'delete') : line));
    expect(await kindsOf(lines)).toEqual(['broken 3', 'broken 5']);
  });

  it.each([
    ['one', [3], 'Record 3 of'],
    ['several', [3, 4], 'Records 3 to 4 of'],
    ['the first', [1], 'Record 1 of'],
  ])('shows that %s of its records is missing, and where', async (_case, numbers, message) => {
    const { findings } = await verify(without(chainOf(6), ...numbers));
    expect(findings).toEqual([{ kind: 'missing', place: String(numbers[0]), message: expect.stringContaining(message) }]);
  });

  it('shows records that have changed places', async () => {
    const [a = '', b = '', c = '', d = ''] = chainOf(4);
    expect(await kindsOf([a, c, b, d])).toEqual(['reordered 3']);
    expect(await kindsOf([b, c, d, a])).toEqual(['reordered 4']);
  });

  it('shows a record that is inserted: another’s, one of its own once more, one signed with another key', async () => {
    const lines = chainOf(3);
    const forged = new AuditChain();
    forged.append(parseMasterKey(keyB), {});
    const foreign = forged
      .append(parseMasterKey(keyB), { act: 'key.decrypt' })
      .line.replaceAll(parseMasterKey(keyB).id, master.id);
    expect(await kindsOf(lines.toSpliced(1, 0, foreign))).toEqual(['broken 2']);
    expect(await kindsOf(lines.toSpliced(2, 0, lines[0] ?? ''))).toEqual(['reordered 3']);
  });

  it('forked by somebody with the master key does not fit together', async () => {
    const chain = new AuditChain();
    const [first, second] = [chain.append(master, {}), chain.append(master, {})];
    const other = new AuditChain();
    const fork = other.append(master, {});
    expect(await kindsOf([first.line, fork.line.replaceAll(fork.chain, first.chain), second.line])).toContain('broken 2');
  });

  it('whose beginning was removed is accepted only on request', async () => {
    const lines = chainOf(5).slice(2);
    expect(await kindsOf(lines)).toEqual(['missing 1']);
    expect(await kindsOf(lines, { isPruned: true })).toEqual([]);
    expect(await kindsOf(without(lines, 2), { isPruned: true })).toEqual(['missing 2']);
  });

  it('under a key that is not there is not called authentic', async () => {
    const line = new AuditChain().append(parseMasterKey(keyB), {}).line;
    expect(await kindsOf([line, line])).toEqual(['unknown_key 1', 'reordered 2']);
  });
});

describe('records under a key that is not there', () => {
  const retired = parseMasterKey(keyB);

  /** Its first two are under the retired key, as before a rotation; then come four. */
  function mixedChain(): { readonly chain: string; readonly lines: string[] } {
    const chain = new AuditChain();
    const lines = [retired, retired, master, master, master, master].map((key) => chain.append(key, { act: 'key.store' }).line);
    return { chain: JSON.parse(lines[0] ?? '').chain, lines };
  }

  const messagesOf = async (lines: readonly string[]): Promise<string[]> =>
    (await verify(lines)).findings.map(({ kind, message }) => `${kind}: ${message}`);

  it('are one finding for each run of them, which says what it holds', async () => {
    const { chain, lines } = mixedChain();
    expect(await messagesOf(lines)).toEqual([
      `unknown_key: 2 records, 1 to 2, of chain ${chain} cannot be verified: add the master key ${retired.id} to the keyring.`,
    ]);
  });

  it('hide no record that was removed, whatever a made-up one of them says of it', async () => {
    const { chain, lines } = mixedChain();
    const { seq, mac } = JSON.parse(lines[5] ?? '');
    const { mac: _own, ...fields } = JSON.parse(lines[0] ?? '');
    const claims = { seq: seq + 1, prev: mac, void: [5], open: [5], mac: 'ab'.repeat(32) };
    const forged = JSON.stringify({ ...fields, ...claims });
    expect(await messagesOf([...without(lines, 5), forged])).toEqual([
      expect.stringContaining('unknown_key: 2 records, 1 to 2,'),
      `missing: Record 5 of chain ${chain} should come before this one.`,
      `unknown_key: Record 7 of chain ${chain} cannot be verified: add the master key ${retired.id} to the keyring.`,
    ]);
  });

  it('do not pass for others that were edited', async () => {
    const { chain, lines } = mixedChain();
    const edited = lines[3]?.replace(master.id, retired.id).replace('key.store', 'key.list') ?? '';
    expect(await messagesOf(lines.with(3, edited))).toEqual([
      expect.stringContaining('unknown_key: 2 records, 1 to 2,'),
      `unknown_key: Record 4 of chain ${chain} cannot be verified: add the master key ${retired.id} to the keyring.`,
    ]);
  });

  it('are called neither missing nor out of order for what only they could tell', async () => {
    const chain = new AuditChain();
    const lines = Array.from({ length: 5 }, () => chain.append(retired, { act: 'key.store' }).line);
    const [first = '', , third = '', fourth = '', fifth = ''] = lines;
    expect(await kindsOf([first, fourth, third, fifth])).toEqual(['unknown_key 1']);
  });
});

describe('records that were written beside each other', () => {
  it('may come late, as long as no record says that they had come before', async () => {
    const [a = '', b = '', c = '', d = ''] = chainOf(4, { 3: { open: [2] } });
    expect(await kindsOf([a, c, b, d])).toEqual([]);
    expect(await kindsOf([a, c, d, b])).toEqual(['reordered 4']);
  });

  it('may be missing where a later record calls them void, or the last one calls them open', async () => {
    expect(await kindsOf(without(chainOf(4, { 4: { void: [2] } }), 2))).toEqual([]);
    expect(await kindsOf(without(chainOf(3, { 3: { open: [2] } }), 2))).toEqual([]);
    expect(await kindsOf(without(chainOf(4, { 3: { open: [2] } }), 2))).toEqual(['missing 2']);
  });
});

describe('the first record that is left of a table', () => {
  const verifyTable = async (table: readonly string[]) =>
    (await verify([], { table, isPruned: true })).findings.map(({ kind, place }) => `${kind} ${place}`);
  const heads = (line: string | undefined) => {
    const { chain, seq, mac } = JSON.parse(line ?? '');
    return [{ sink: 'database', chain, seq, mac }];
  };

  it('may stand behind any of those that were written beside it, in whichever order, and anchors may name them', async () => {
    const lines = chainOf(6, { 3: { open: [2] }, 4: { open: [2] } });
    const [, b = '', c = '', d = '', e = '', f = ''] = lines;
    for (const left of [
      [b, d, e, f],
      [b, c, e, f],
      [b, e, f],
      [c, b, d, e, f],
      [d, b, e, f],
      [c, e, f],
    ]) {
      expect(await verifyTable(left)).toEqual([]);
    }
    const anchor = chainOf(1, { 1: { heads: heads(c) } });
    expect((await verify(anchor, { table: [b, d, e, f], isPruned: true })).findings).toEqual([]);
  });

  it('is not the lowest where others were written late; an anchor that names one of before is no finding', async () => {
    const [, b = '', c = '', d = '', e = ''] = chainOf(5, { 3: { open: [2] }, 4: { open: [2] } });
    const anchor = chainOf(1, { 1: { heads: heads(c) } });
    expect((await verify(anchor, { table: [d, b, e], isPruned: true })).findings).toEqual([]);
  });

  it('excuses none where it is the first of a service, and never so many that they cannot have been under way together', async () => {
    const [a = '', , c = ''] = chainOf(3, { 1: { act: 'audit.start' } });
    expect(await verifyTable([a, c])).toEqual(['missing 2']);
    const many = chainOf(150);
    expect(await verifyTable([many[1] ?? '', many[140] ?? ''])).toEqual(['missing 2']);
  });

  it('excuses none of a chain that began long after the table was cut', async () => {
    const chain = new AuditChain();
    const later = [1, 2, 3].map(() => chain.append(master, { act: 'rotation.start' }, new Date(Date.now() + 600_000)).line);
    expect(await verifyTable([...chainOf(2).slice(1), ...without(later, 2)])).toEqual(['missing 3']);
  });

  it('excuses none of a later chain that has been moved to where the table begins', async () => {
    const chain = new AuditChain();
    const later = [1, 2, 3].map(() => chain.append(master, { act: 'rotation.start' }, new Date(Date.now() + 600_000)).line);
    expect(await verifyTable([...without(later, 2), ...chainOf(2).slice(1)])).toEqual(['missing 2']);
  });

  it('excuses none that was signed after it had been written', async () => {
    const [, second = '', third = '', , fifth = '', , seventh = ''] = chainOf(7);
    expect(await verifyTable([second, third, fifth, seventh])).toEqual(['missing 3', 'missing 4']);
  });
});

describe('an anchor in the other sink', () => {
  const anchored = (lines: readonly string[], number: number): string[] => {
    const { chain, seq, mac } = JSON.parse(lines[number - 1] ?? '');
    return chainOf(1, { 1: { act: 'audit.anchor', heads: [{ sink: 'log', chain, seq, mac }] } });
  };

  it('shows a tail that was cut before it, and a chain that is gone; what was cut behind it cannot be missed', async () => {
    const lines = chainOf(6);
    const table = anchored(lines, 4);
    expect(await kindsOf(lines, { table })).toEqual([]);
    expect(await kindsOf(lines.slice(0, 4), { table })).toEqual([]);
    const { findings } = await verify(lines.slice(0, 3), { table });
    expect(findings).toEqual([{ kind: 'missing', place: '1', message: expect.stringContaining('the last one there is 3') }]);
    expect(await kindsOf(chainOf(2), { table })).toEqual(['missing 1']);
  });

  it('shows that the record it names is another one', async () => {
    const lines = chainOf(2);
    const [other = ''] = anchored(lines, 2);
    const { chain } = JSON.parse(lines[0] ?? '');
    const heads = [{ sink: 'log', chain, seq: 2, mac: '0'.repeat(64) }];
    expect(await kindsOf(lines, { table: chainOf(1, { 1: { heads } }) })).toEqual(['broken 1']);
    expect(await kindsOf(lines, { table: [other] })).toEqual([]);
  });

  it('is not outdone by another anchor over the same record', async () => {
    const lines = chainOf(2);
    const { chain, seq, mac } = JSON.parse(lines[1] ?? '');
    const [honest = '', forged = ''] = [mac, '1'.repeat(64)].flatMap((named) =>
      chainOf(1, { 1: { heads: [{ sink: 'log', chain, seq, mac: named }] } }),
    );
    expect(await kindsOf(lines, { table: [honest, forged] })).toEqual(['broken 2']);
    expect(await kindsOf(lines, { table: [forged, honest] })).toEqual(['broken 1']);
  });

  it('vouches for nothing where its own key is not there to show that it is authentic', async () => {
    const lines = chainOf(2);
    const heads = [2, 3].map((seq) => ({ sink: 'log', chain: JSON.parse(lines[0] ?? '').chain, seq, mac: '0'.repeat(64) }));
    const anchor = new AuditChain().append(parseMasterKey(keyB), { act: 'audit.anchor', heads });
    expect(await kindsOf(lines, { table: [anchor.line] })).toEqual(['unknown_key 1']);
  });

  it('is counted where what it names was not read', async () => {
    const { chain, seq, mac } = JSON.parse(chainOf(1)[0] ?? '');
    const lines = chainOf(1, { 1: { heads: [{ sink: 'database', chain, seq, mac }] } });
    expect(await verify(lines)).toMatchObject({ findings: [], anchorsUnchecked: 1 });
  });
});

describe('a line of a log', () => {
  it('is found behind what a collector has put before it, and other lines are none', () => {
    const [line = ''] = chainOf(1);
    expect(recordIn(Buffer.from(`2026-01-01T00:00:00Z stdout F ${line}\r\n`))).toBe(line);
    expect(recordIn(Buffer.concat([Buffer.of(0xe9), Buffer.from(line)]))).toBe(line);
    expect(recordIn(Buffer.from('{"level":30,"msg":"request"}'))).toBeNull();
  });
});
