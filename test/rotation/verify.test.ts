/** A verification has read every row under the new key, and reads again only what it found under the old one. */

import { expect, it, onTestFinished } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../../src/crypto/master-key.ts';
import { maxListedLeft } from '../../src/rotation/page-work.ts';
import { workHere } from '../../src/rotation/page-workers.ts';
import { Progress } from '../../src/rotation/progress.ts';
import { verify } from '../../src/rotation/verify.ts';
import { Database } from '../../src/store/database.ts';
import { pageRows } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { keyA, keyB, keyC, temporaryDatabase } from '../support/vault.ts';

const [from, to] = [keyA, keyB].map(parseMasterKey) as [MasterKey, MasterKey];
const keyring = new Keyring([from, to].map((key, index) => ({ source: `KEY_${index}`, key })));
const rows = 2 * pageRows + 17;

/** A table whose rows are under the new key, but for one that nobody opens and that is to be skipped. */
async function start() {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyB, rows - 1);
  await gateway.insert(keyC, { id: 'skipped' });
  const database = new Database({ url });
  onTestFinished(() => database.close());
  const skippedRows = [{ table: 'api_keys', id: 'skipped' }];
  const work = {
    tables: new EncryptedTables(database),
    tableNames: ['api_keys'],
    workers: workHere({ from, to, upgradeFormat: false, skippedRows, isSwitched: false }, keyring),
    progress: new Progress(),
    assertGoesOn: () => undefined,
  };
  return { gateway, work };
}

const all = { rowsScanned: rows, rowsVerified: rows - 1, rowsSkipped: 1, rowsLeft: 0, rowsFailed: 0 };

it('finds rows that were written under the old key, and then looks at them alone', async () => {
  const { gateway, work } = await start();
  const written = ['row-3', `row-${pageRows + 5}`];
  for (const id of written) await gateway.update(keyA, id, 'sample-again');
  const first = await verify(work);
  expect(first).toMatchObject({ ...all, rowsVerified: rows - 3, rowsLeft: 2 });
  expect(first.partsLeft?.map(({ range }) => range?.from)).toEqual([4n, BigInt(pageRows + 6)]);
  // Whoever reads everything again finds this one.
  await gateway.update(keyC, 'row-9', 'sample-of-nobody');
  const second = await verify(work, first);
  expect(second).toMatchObject({ ...all, rowsVerified: rows - 3, rowsLeft: 2 });
  for (const id of written) await gateway.update(keyB, id, 'sample-again');
  expect(await verify(work, second)).toMatchObject({ ...all, partsLeft: [] });
});

it('finds rows that have come since, or were moved', async () => {
  const { gateway, work } = await start();
  await gateway.update(keyA, 'row-3', 'sample-again');
  const first = await verify(work);
  await gateway.insert(keyA, { id: 'new' });
  const second = await verify(work, first);
  expect(second).toMatchObject({ ...all, rowsScanned: rows + 1, rowsVerified: rows - 2, rowsLeft: 2 });
  await gateway.update(keyB, 'new', 'sample-again');
  // As `INSERT OR REPLACE` does.
  await gateway.run("UPDATE api_keys SET rowid = (SELECT max(rowid) + 1 FROM api_keys) WHERE id = 'row-3'");
  const third = await verify(work, second);
  expect(third).toMatchObject({ ...all, rowsScanned: rows + 1, rowsVerified: rows - 1, rowsLeft: 1 });
  await gateway.update(keyB, 'row-3', 'sample-again');
  expect(await verify(work, third)).toMatchObject({ ...all, rowsScanned: rows + 1, rowsVerified: rows, partsLeft: [] });
});

it('does not count what is deleted meanwhile', async () => {
  const { gateway, work } = await start();
  await gateway.update(keyA, 'row-3', 'sample-again');
  const first = await verify(work);
  await gateway.run("DELETE FROM api_keys WHERE id = 'row-3'");
  expect(await verify(work, first)).toMatchObject({ ...all, rowsScanned: rows - 1, rowsVerified: rows - 2 });
});

it('reads everything again where they are many', async () => {
  const { gateway, work } = await start();
  for (let index = 0; index <= maxListedLeft; index += 1) await gateway.update(keyA, `row-${index}`, 'sample-again');
  const first = await verify(work);
  expect(first).toMatchObject({ rowsLeft: maxListedLeft + 1, partsLeft: null });
  for (let index = 0; index <= maxListedLeft; index += 1) await gateway.update(keyB, `row-${index}`, 'sample-again');
  await gateway.update(keyC, 'row-500', 'sample-of-nobody');
  expect(await verify(work, first)).toMatchObject({ ...all, rowsVerified: rows - 2, rowsFailed: 1 });
});
