/** A survey of a large table, on a thread of its own, says what one here says, is never older than the question, and ends with the process. */

import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { SurveyThreads, surveyHere } from '../../src/keys/surveyor.ts';
import { Database } from '../../src/store/database.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { keyA, keyB, keyC, temporaryDatabase } from '../support/vault.ts';

const entry = new URL('../../dist/threads/survey-thread.js', import.meta.url);
const keyring = new Keyring([keyA, keyB].map((key, index) => ({ source: `KEY_${index}`, key: parseMasterKey(key) })));
const coverage = { encryptedTables: ['api_keys'], exemptTables: [] };

async function start(rows: number) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  const location = { url, authToken: undefined };
  const database = new Database(location);
  const deaths: unknown[] = [];
  const surveyorOn = (file: URL) => {
    const onDeath = (error: unknown) => deaths.push(error);
    const tables = new EncryptedTables(database);
    return new SurveyThreads({ entry: file, database: location, tables, coverage, keyring, onDeath });
  };
  const surveyor = surveyorOn(entry);
  onTestFinished(async () => {
    await surveyor.close();
    await database.close();
  });
  return { surveyor, surveyorOn, deaths, gateway, database };
}

it('counts rows, keys, formats and failures as one on this thread does', async () => {
  for (const rows of [20, 1_500]) {
    const { surveyor, deaths, gateway, database } = await start(rows);
    await gateway.insert(keyB, { id: 'other' });
    await gateway.insert(keyC, { id: 'foreign' });
    const here = await surveyHere(new EncryptedTables(database), coverage, keyring).survey();
    expect(await surveyor.survey()).toEqual(here);
    expect([here.rowsScanned, here.failures.map(({ id }) => id)]).toEqual([rows + 2, ['foreign']]);
    expect(deaths).toEqual([]);
  }
});

it('begins anew for whoever asks while one is under way, once for all of them', async () => {
  const rows = 20_000;
  const { surveyor, gateway } = await start(rows);
  const first = surveyor.survey();
  // By then it has passed the first row, or has not begun: either way what is asked now must not count it.
  await Promise.race([first, sleep(400)]);
  await gateway.run('DELETE FROM api_keys WHERE rowid = (SELECT min(rowid) FROM api_keys)');
  const [second, third] = await Promise.all([surveyor.survey(), surveyor.survey()]);
  expect((await first).rowsScanned).toBeGreaterThanOrEqual(rows - 1);
  expect(second.rowsScanned).toBe(rows - 1);
  expect(third).toBe(second);
});

it('is done on this thread where its own cannot start', async () => {
  const { surveyorOn, deaths } = await start(1_500);
  const without = surveyorOn(new URL('file:///nowhere/survey-thread.js'));
  expect((await without.survey()).rowsScanned).toBe(1_500);
  expect(deaths).toHaveLength(1);
});

it('ends at its next page when it is closed, and begins no other', async () => {
  const { surveyor } = await start(20_000);
  const [running, waiting] = [surveyor.survey(), sleep(1).then(() => surveyor.survey())];
  const ends = Promise.allSettled([running, waiting]);
  await sleep(300);
  await surveyor.close();
  expect(await ends).toMatchObject([{ reason: { code: 'storage_unavailable' } }, { reason: { code: 'storage_unavailable' } }]);
  await expect(surveyor.survey()).rejects.toMatchObject({ code: 'storage_unavailable' });
});
