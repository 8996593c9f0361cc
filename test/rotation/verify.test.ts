/** A verification has read every row under the new key, and has rotated what it finds under the old one. */

import { expect, it, onTestFinished } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../../src/crypto/master-key.ts';
import { maxListedLeft } from '../../src/rotation/page-work.ts';
import { workHere } from '../../src/rotation/page-workers.ts';
import { Progress } from '../../src/rotation/progress.ts';
import { type RotateLate, verify } from '../../src/rotation/verify.ts';
import { Database } from '../../src/store/database.ts';
import { pageRows } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { firstRowId, lastRowId } from '../../src/store/row-ids.ts';
import { keyA, keyB, keyC, temporaryDatabase } from '../support/vault.ts';

const [from, to] = [keyA, keyB].map(parseMasterKey) as [MasterKey, MasterKey];
const keyring = new Keyring([from, to].map((key, index) => ({ source: `KEY_${index}`, key })));
const rows = 2 * pageRows + 17;

/** A table whose rows are under the new key, but for one that nobody opens and that is to be skipped. */
async function start(upgradeFormat = false) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyB, rows - 1);
  await gateway.insert(keyC, { id: 'skipped' });
  const database = new Database({ url });
  onTestFinished(() => database.close());
  const skippedRows = [{ table: 'api_keys', id: 'skipped' }];
  const work = {
    tables: new EncryptedTables(database),
    coverage: { encryptedTables: ['api_keys'], exemptTables: [] },
    workers: workHere({ from, to, upgradeFormat, skippedRows, isSwitched: false }, keyring),
    progress: new Progress(),
    assertGoesOn: () => undefined,
  };
  const under = async (key: string, ...ids: readonly string[]): Promise<void> => {
    for (const id of ids) await gateway.update(key, id, 'sample-again');
  };
  return { gateway, under, work };
}

const all = { rowsScanned: rows, rowsNew: rows - 1, rowsSkipped: 1, rowsOld: 0, rowsFailed: 0 };

/** What a verification asks to be rotated: the row ids of each part. `rotate` does it as somebody else would. */
function rotating(rotate: (time: number) => Promise<unknown>) {
  const asked: (readonly [bigint, bigint])[][] = [];
  const rotateLate: RotateLate = async (late) => {
    asked.push(late.map(({ range = { from: firstRowId, to: lastRowId } }) => [range.from, range.to]));
    await rotate(asked.length);
  };
  return { asked, rotateLate };
}

it('has late rows rotated page by page, and then reads them alone', async () => {
  const { under, work } = await start();
  const [first, second] = [['row-3', 'row-7'], [`row-${pageRows + 5}`]] as const;
  await under(keyA, ...first, ...second);
  const { asked, rotateLate } = rotating(async (time) => {
    await under(keyB, ...(time === 1 ? first : second));
    // Whoever reads the first page again finds this one.
    await under(keyC, 'row-9');
  });
  expect(await verify(work, rotateLate)).toMatchObject(all);
  const of = (rowId: number): readonly [bigint, bigint] => [BigInt(rowId), BigInt(rowId)];
  expect(asked).toEqual([[of(4), of(8)], [of(pageRows + 6)]]);
});

it('counts a late row as it is once it has been rotated, moved or deleted', async () => {
  const { gateway, under, work } = await start();
  await under(keyA, 'row-3', 'row-7', 'row-8');
  const { rotateLate } = rotating(async () => {
    await under(keyB, 'row-3', 'row-8');
    // As `INSERT OR REPLACE` does.
    await gateway.run("UPDATE api_keys SET rowid = (SELECT max(rowid) + 1 FROM api_keys) WHERE id = 'row-3'");
    await gateway.run("DELETE FROM api_keys WHERE id = 'row-7'");
  });
  expect(await verify(work, rotateLate)).toMatchObject({ ...all, rowsScanned: rows - 1, rowsNew: rows - 2 });
});

it('does not count as under the new key what is late in the old format', async () => {
  const { gateway, work } = await start(true);
  await gateway.run("DELETE FROM api_keys WHERE id NOT IN ('row-3', 'row-7')");
  const { asked, rotateLate } = rotating(() => gateway.run('DELETE FROM api_keys'));
  expect(await verify(work, rotateLate)).toMatchObject({ rowsScanned: 0, rowsNew: 0, rowsToUpgrade: 0, rowsSkipped: 0 });
  expect(asked).toHaveLength(1);
});

it('reads a page again where its late rows are many', async () => {
  const { under, work } = await start();
  const ids = Array.from({ length: maxListedLeft + 1 }, (_, index) => `row-${index}`);
  await under(keyA, ...ids);
  const { asked, rotateLate } = rotating(async () => {
    await under(keyB, ...ids);
    await under(keyC, 'row-500');
  });
  expect(await verify(work, rotateLate)).toMatchObject({ ...all, rowsNew: rows - 2, rowsFailed: 1 });
  expect(asked).toEqual([[[firstRowId, BigInt(pageRows)]]]);
});

it('asks five times for a row that is late each time, and then names it', async () => {
  const { under, work } = await start();
  await under(keyA, 'row-3');
  const { asked, rotateLate } = rotating(async () => undefined);
  const named = { rowsNew: rows - 2, rowsOld: 1, namesLeft: ['api_keys.id=row-3'] };
  expect(await verify(work, rotateLate)).toMatchObject({ ...all, ...named });
  expect(asked).toHaveLength(5);
});

it('has the late rows rotated also of a page with a row that nobody opens, which it names', async () => {
  const { under, work } = await start();
  await under(keyA, 'row-3');
  await under(keyC, 'row-9');
  const { asked, rotateLate } = rotating(() => under(keyB, 'row-3'));
  const named = { failures: [{ table: 'api_keys', id: 'row-9', reason: 'unknown_key_or_corrupt' }] };
  expect(await verify(work, rotateLate)).toMatchObject({ ...all, rowsNew: rows - 2, rowsFailed: 1, ...named });
  expect(asked).toHaveLength(1);
});
