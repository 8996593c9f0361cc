/** What the gate has sealed is written only over what it has read; all else is read, opened and sealed once more. */

import { describe, expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../../src/crypto/master-key.ts';
import { openAllRows, sealsFirstPages } from '../../src/rotation/gate.ts';
import type { TableWork } from '../../src/rotation/inspection.ts';
import { workHere } from '../../src/rotation/page-workers.ts';
import { Progress } from '../../src/rotation/progress.ts';
import { prepareOneCommit, sealedPages, writeChunks } from '../../src/rotation/write-back.ts';
import { Database } from '../../src/store/database.ts';
import { type EncryptedPage, pageRows } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { GuardFailedError } from '../../src/store/guards.ts';
import { migrate } from '../../src/store/migrations.ts';
import { keyA, keyB, keyC, keyIdB, temporaryDatabase } from '../support/vault.ts';

const [from, to] = [keyA, keyB].map(parseMasterKey) as [MasterKey, MasterKey];
const keyring = new Keyring([from, to].map((key, index) => ({ source: `KEY_${index}`, key })));
const rows = 2 * pageRows + 17;

/** A table of three pages, of which the gate has sealed those that `isToSeal` says yes to. */
async function afterGate(isToSeal: (page: EncryptedPage) => boolean) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  const database = new Database({ url });
  await migrate(database);
  const work: TableWork = {
    tables: new EncryptedTables(database),
    coverage: { encryptedTables: ['api_keys'], exemptTables: [] },
    workers: workHere({ from, to, upgradeFormat: false, skippedRows: [], isSwitched: false }, keyring),
    progress: new Progress(),
    assertGoesOn: () => undefined,
  };
  const { sealed } = await openAllRows(work, () => isToSeal);
  const write = async () => {
    const changes: number[] = [];
    await writeChunks(work, to.id, sealedPages(work, sealed), async (chunk) => {
      const [changed = 0] = await database.write([chunk]);
      changes.push(changed);
      return changed;
    });
    return changes;
  };
  const rowsNew = async () => (await openAllRows(work)).rowsNew;
  return { gateway, database, work, sealed, write, rowsNew };
}

const choices = [
  ['every page', () => true, 3],
  ['the first page alone', ({ range }: EncryptedPage) => range.to === BigInt(pageRows), 1],
  ['no page', () => false, 0],
] as const;

describe.each(choices)('of a table of which the gate has sealed %s', (_which, isToSeal, pages) => {
  it('every row is written in chunks, once', async () => {
    const { database, sealed, write, rowsNew, gateway } = await afterGate(isToSeal);
    expect(sealed.length).toBe(pages);
    expect((await write()).toSorted((left, right) => left - right)).toEqual([17, pageRows, pageRows]);
    expect(await rowsNew()).toBe(rows);
    expect(await gateway.open(keyB, `row-${rows - 1}`)).toBe(`sample-value-of-row-${rows - 1}`);
    await database.close();
  });

  it('every row is written in one commit, which a row that has come since is part of', async () => {
    const { database, work, sealed, gateway, rowsNew } = await afterGate(isToSeal);
    await gateway.insert(keyA, { id: 'late' });
    const commit = await prepareOneCommit(work, keyIdB, sealed);
    expect(commit?.rowsRotated).toBe(rows + 1);
    await database.write(commit?.statements ?? []);
    expect(await rowsNew()).toBe(rows + 1);
    await database.close();
  });

  it('no commit is prepared once a row has come that opens with neither key', async () => {
    const { database, work, sealed, gateway } = await afterGate(isToSeal);
    await gateway.insert(keyC, { id: 'foreign' });
    expect(await prepareOneCommit(work, keyIdB, sealed)).toBeNull();
    await database.close();
  });
});

describe('what the gate has sealed', () => {
  it('does not replace what was written since, which is rotated as it is by the same pass', async () => {
    const { database, write, gateway, rowsNew } = await afterGate(() => true);
    await gateway.update(keyA, 'row-5', 'sample-edited-under-the-old-key');
    await gateway.update(keyB, 'row-1500', 'sample-edited-under-the-new-key');
    await gateway.run("DELETE FROM api_keys WHERE id = 'row-7'");
    await gateway.insert(keyA, { id: 'late' });
    await write();
    expect(await gateway.open(keyB, 'row-5')).toBe('sample-edited-under-the-old-key');
    expect(await gateway.open(keyB, 'row-1500')).toBe('sample-edited-under-the-new-key');
    expect(await gateway.open(keyB, 'late')).toBe('sample-value-of-late');
    expect(await rowsNew()).toBe(rows);
    await database.close();
  });

  it('makes the one commit fail where something was written since', async () => {
    const { database, work, sealed, gateway } = await afterGate(() => true);
    await gateway.update(keyA, 'row-1500', 'sample-edited');
    const commit = await prepareOneCommit(work, keyIdB, sealed);
    await expect(database.write(commit?.statements ?? [])).rejects.toThrow(GuardFailedError);
    expect(await gateway.open(keyA, 'row-1500')).toBe('sample-edited');
    expect(await gateway.open(keyA, 'row-1')).toBe('sample-value-of-row-1');
    await database.close();
  });

  it('makes the one commit fail where a row that was rotated already is under the old key again', async () => {
    const { database, work, sealed, gateway } = await afterGate(() => false);
    await gateway.update(keyB, 'row-5', 'sample-rotated');
    const commit = await prepareOneCommit(work, keyIdB, sealed);
    await gateway.update(keyA, 'row-5', 'sample-edited');
    await expect(database.write(commit?.statements ?? [])).rejects.toThrow(GuardFailedError);
    expect(await gateway.open(keyA, 'row-1')).toBe('sample-value-of-row-1');
    await database.close();
  });

  it('holds no memory once it is written', async () => {
    const { database, sealed, write } = await afterGate(() => true);
    const held = sealed.flatMap(({ replacements, expected }) => [...replacements, expected.tags]);
    expect(held.every(({ length }) => length > 0)).toBe(true);
    await write();
    expect(held.map(({ length }) => length)).toEqual(held.map(() => 0));
    await database.close();
  });

  it('takes bounded memory: from some size on pages are only opened', () => {
    const isToSeal = sealsFirstPages();
    const page = { table: 'api_keys', range: { from: 1n, to: 1n }, rows: 1, cells: new Uint8Array(1024 * 1024) };
    const answers = Array.from({ length: 20 }, () => isToSeal(page));
    expect(answers.filter(Boolean).length).toBe(16);
    expect(answers.slice(16)).not.toContain(true);
  });
});
