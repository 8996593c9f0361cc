/** Each sink vouches for the other when there is something new, and an idle vault writes nothing. */

import { readFileSync, renameSync, symlinkSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Anchors } from '../../src/audit/anchors.ts';
import { vaultActor } from '../../src/audit/event.ts';
import { AuditJournal } from '../../src/audit/journal.ts';
import { AuditKeys } from '../../src/audit/keys.ts';
import { AuditLog } from '../../src/audit/log.ts';
import { AuditSink } from '../../src/audit/sink.ts';
import { AuditChain } from '../../src/crypto/audit-chain.ts';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { AuditStore } from '../../src/store/audit.ts';
import { Database } from '../../src/store/database.ts';
import { migrate } from '../../src/store/migrations.ts';
import { keyA, keyB, temporaryDatabase, temporaryFolder, tester } from '../support/vault.ts';

async function start() {
  const { url, gateway } = await temporaryDatabase();
  const database = new Database({ url });
  await migrate(database);
  const path = join(temporaryFolder(), 'audit.log');
  const sink = new AuditSink(path);
  await sink.open();
  onTestFinished(async () => {
    await sink.close();
    await database.close();
  });
  const store = new AuditStore(database);
  const keysOf = (...masterKeys: string[]) =>
    new AuditKeys(
      new Keyring(masterKeys.map((text, index) => ({ source: `KEY_${index}`, key: parseMasterKey(text) }))),
      async () => null,
    );
  const keys = keysOf(keyA);
  const journal = new AuditJournal(store, keys);
  const log = new AuditLog(sink, keys, () => undefined);
  const context = { log, store, keys, intervalMs: 1_000_000, details: {} };
  const anchors = new Anchors({ ...context, journal });
  const logged = () => linesOf(readFileSync(path, 'utf8').split('\n').slice(0, -1));
  const tabled = async () => linesOf((await store.list(0, 10_000)).map(({ line }) => line));
  await anchors.start();
  /** As another process does on the same sinks. */
  const restart = async (itsKeys = keys) => {
    const next = new Anchors({ ...context, keys: itsKeys, journal: new AuditJournal(store, itsKeys) });
    await next.start();
    return next;
  };
  return { path, sink, store, keys, journal, log, anchors, logged, tabled, gateway, restart, keysOf };
}

const linesOf = (lines: readonly string[]) => lines.map((line) => JSON.parse(line));
const headOf = ({ chain, seq, mac }: Record<string, unknown>, sink: string) => ({ sink, chain, seq, mac });
const use = { act: 'key.decrypt', outcome: 'done' };

describe('anchors', () => {
  it('of an idle vault are written once, and not for each other', async () => {
    const { anchors, logged, tabled } = await start();
    for (let round = 0; round < 4; round += 1) await anchors.anchor();
    expect(logged().map(({ act }) => act)).toEqual(['audit.start', 'audit.anchor']);
    expect((await tabled()).map(({ act }) => act)).toEqual(['audit.start', 'audit.anchor']);
    await anchors.stop();
  });

  it('name the last record of the other sink, in the table also those of other processes', async () => {
    const { anchors, log, journal, store, keys, logged, tabled } = await start();
    await log.record(tester, [use, use]);
    await journal.note(tester, use);
    const other = new AuditJournal(store, keys);
    for (let index = 0; index < 3; index += 1) await other.note(tester, use);
    await anchors.anchor();
    const rows = await tabled();
    const [own, others] = [
      rows.filter(({ chain }) => chain === rows[0].chain),
      rows.filter(({ chain }) => chain !== rows[0].chain),
    ];
    expect(logged().at(-1).heads).toEqual([headOf(own.at(-2), 'database'), headOf(others.at(-1), 'database')]);
    expect(own.at(-1)).toMatchObject({ act: 'audit.anchor', actor: vaultActor.name, heads: [headOf(logged().at(-1), 'log')] });
    await anchors.stop();
  });

  it('vouch for what was written while no service ran, or by one that was killed, and not again and again', async () => {
    const { anchors, journal, store, keys, logged, restart } = await start();
    await anchors.anchor();
    await journal.note(tester, use);
    const commands = [new AuditJournal(store, keys), new AuditJournal(store, keys)];
    for (const command of commands) await command.note(tester, use);
    const before = (await store.list(0, 1_000)).map(({ line }) => JSON.parse(line)).slice(-3);
    await (await restart()).anchor();
    const vouched = logged().at(-1).heads;
    for (const record of before) expect(vouched).toContainEqual(headOf(record, 'database'));
    expect(vouched).toHaveLength(4);
    for (let round = 0; round < 3; round += 1) {
      await (await restart()).anchor();
      expect(logged().at(-1).heads).toHaveLength(2);
    }
  });

  it('leave what is under a key that they lack to a process that has it', async () => {
    const { anchors, store, logged, journal, restart, keysOf } = await start();
    await new AuditJournal(store, keysOf(keyB)).note(tester, use);
    const theirs = (await store.list(0, 1_000)).map(({ line }) => JSON.parse(line)).at(-1);
    await journal.note(tester, use);
    await anchors.anchor();
    expect(logged().at(-1).heads).not.toContainEqual(headOf(theirs, 'database'));
    await (await restart(keysOf(keyA, keyB))).anchor();
    expect(logged().at(-1).heads).toContainEqual(headOf(theirs, 'database'));
  });

  it('vouch for many records part by part, so that what is done of it stays done', async () => {
    const { anchors, logged, tabled, gateway } = await start();
    const chain = new AuditChain();
    const lines = Array.from({ length: 3_000 }, () => chain.append(parseMasterKey(keyA), use).line);
    await gateway.client.execute({
      sql: "INSERT INTO vault_audit (chain, sequence, line) SELECT 'many', key, value FROM json_each(?)",
      args: [JSON.stringify(lines)],
    });
    await Promise.all([anchors.anchor(), anchors.anchor()]);
    const marks = (await tabled()).filter(({ act }) => act === 'audit.anchor').map(({ details }) => details.anchored_to);
    expect(marks).toEqual([2_000, 3_002]);
    expect(
      logged()
        .slice(1)
        .map(({ heads }) => Math.max(...heads.map(({ seq }: { seq: number }) => seq))),
    ).toEqual([1_999, 3_000]);
  });

  it('do not vouch for what somebody without a master key has put into the table', async () => {
    const { anchors, journal, store, logged, tabled, gateway } = await start();
    await journal.note(tester, use);
    const last = (await tabled()).at(-1);
    for (const [index, keyId] of [last.key_id, '0'.repeat(16)].entries()) {
      const forged = JSON.stringify({ ...last, seq: last.seq + 1, key_id: keyId });
      await gateway.run(`INSERT INTO vault_audit (chain, sequence, line) VALUES ('x', ${index}, '${forged}')`);
    }
    await anchors.anchor();
    expect(logged().at(-1).heads).toEqual([headOf(last, 'database')]);
    await gateway.run("DELETE FROM vault_audit WHERE chain = 'x'");
    await gateway.run("INSERT INTO vault_audit (chain, sequence, line) VALUES ('y', 1, CAST(x'7bff00' AS text))");
    await journal.note(tester, use);
    await anchors.anchor();
    expect(logged().at(-1).heads).toEqual([expect.objectContaining({ sink: 'database', seq: last.seq + 2 })]);
    expect((await store.list(0, 1_000)).filter(({ line }) => line.startsWith('{\u00ff\0'))).toHaveLength(1);
  });

  it.each([
    ['a line', () => 'x'],
    ['a record', (record: string) => record],
  ])('are not led past new records by %s that stood far behind them for a while', async (_what, lineOf) => {
    const { anchors, journal, store, logged, gateway } = await start();
    await journal.note(tester, use);
    const line = lineOf((await store.list(0, 1))[0]?.line ?? '');
    await gateway.run(`INSERT INTO vault_audit (position, chain, sequence, line) VALUES (1000000, 'x', 1, '${line}')`);
    await anchors.anchor();
    await gateway.run('DELETE FROM vault_audit WHERE position >= 1000000');
    await gateway.run("UPDATE sqlite_sequence SET seq = 2 WHERE name = 'vault_audit'");
    await journal.note(tester, use);
    await anchors.anchor();
    expect(logged().at(-1).heads).toEqual([expect.objectContaining({ sink: 'database', seq: 4 })]);
  });

  it('of many chains are records of a few kilobytes', async () => {
    const { anchors, store, keys, logged } = await start();
    for (let index = 0; index < 30; index += 1) await new AuditJournal(store, keys).note(tester, use);
    await anchors.anchor();
    expect(
      logged()
        .slice(1)
        .map(({ heads }) => heads.length),
    ).toEqual([20, 11]);
  });

  it('vouch for anchors that stood alone once something else has come, whoever has read them meanwhile', async () => {
    const { anchors, log, logged, tabled, restart } = await start();
    const other = await restart();
    await other.anchor();
    await anchors.anchor();
    await log.record(tester, [use]);
    await anchors.anchor();
    const last = (await tabled()).at(-1);
    expect(last.act).toBe('audit.anchor');
    for (let round = 0; round < 2; round += 1) {
      await log.record(tester, [use]);
      await other.anchor();
    }
    await (await restart()).anchor();
    expect(logged().at(-1).heads).toContainEqual(headOf(last, 'database'));
  });

  it('of a stop name what came while others were under way', async () => {
    const { anchors, log, logged, tabled, gateway } = await start();
    await anchors.anchor();
    await log.record(tester, [use]);
    const lock = await gateway.client.transaction('write');
    const underWay = anchors.anchor();
    await new Promise((resolve) => setTimeout(resolve, 100));
    await log.record(tester, [use, use]);
    const stopped = anchors.stop();
    await lock.rollback();
    await Promise.all([underWay, stopped]);
    const uses = logged().filter(({ act }) => act === 'key.decrypt');
    expect((await tabled()).at(-1).heads[0].seq).toBeGreaterThanOrEqual(uses.at(-1).seq);
  });

  it('end at a position that no number holds', async () => {
    const { anchors, store, gateway, logged } = await start();
    await gateway.run("INSERT INTO vault_audit (position, chain, sequence, line) VALUES (9007199254740993, 'x', 1, 'x')");
    await anchors.anchor();
    expect(logged().at(-1).act).toBe('audit.anchor');
    let rows = 0;
    for await (const row of store.allBackwards()) rows += row.line === 'x' ? 0 : 1;
    expect(rows).toBeGreaterThan(0);
  });

  it('that could not be written are made up for', async () => {
    const { path, sink, anchors, log, journal, logged, tabled, gateway } = await start();
    await journal.note(tester, use);
    await log.record(tester, [use]);
    renameSync(path, `${path}.1`);
    symlinkSync('/dev/full', path);
    await sink.open();
    await gateway.run('ALTER TABLE vault_audit RENAME TO vault_audit_away');
    await anchors.anchor();
    await gateway.run('ALTER TABLE vault_audit_away RENAME TO vault_audit');
    await anchors.anchor();
    // The third record and the fourth are anchors that could not be written.
    expect((await tabled()).at(-1)).toMatchObject({ act: 'audit.anchor', seq: 5, void: [3, 4] });
    unlinkSync(path);
    await sink.open();
    await anchors.anchor();
    expect(logged().at(-1)).toMatchObject({
      act: 'audit.anchor',
      heads: [expect.objectContaining({ sink: 'database', seq: 5 })],
    });
    await anchors.stop();
  });
});
