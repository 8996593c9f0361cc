/** A command rotates a large table on all cores: threads open and seal its pages, and it is as if one thread had done it all. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { coveredPages } from '../../src/keys/covered-rows.ts';
import type { PageReport } from '../../src/rotation/page-work.ts';
import { type PageWorkers, workHere, workOnThreads } from '../../src/rotation/page-workers.ts';
import { Database } from '../../src/store/database.ts';
import { type EncryptedPage, pageRows } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { runCli } from '../support/process.ts';
import { keyA, keyB, keyC, keyIdC, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const entry = new URL('../../dist/threads/page-thread.js', import.meta.url);
const rows = pageRows * 5 + 17;
/** In the first page, one in between, and the last, which is not full. */
const failing = [3, pageRows * 2 + 5, rows - 1];

async function largeTable() {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  return { url, gateway };
}

async function withFailures() {
  const { url, gateway } = await largeTable();
  for (const index of failing) await gateway.run(`DELETE FROM api_keys WHERE id = 'row-${index}'`);
  for (const index of failing) await gateway.insert(keyC, { id: `row-${index}` });
  // As the rows stand in the table now, and not by their numbers.
  await gateway.run(`UPDATE api_keys SET rowid = 1000000 + CAST(substr(id, 5) AS integer)`);
  return { url, gateway };
}

const [oldKey, newKey, otherKey] = [keyA, keyB, keyC].map(parseMasterKey) as [
  ReturnType<typeof parseMasterKey>,
  ReturnType<typeof parseMasterKey>,
  ReturnType<typeof parseMasterKey>,
];
const keyring = new Keyring([oldKey, newKey, otherKey].map((key, index) => ({ source: `KEY_${index}`, key })));
const skippedRows = [{ table: 'api_keys', id: 'row-7' }];
const plan = { from: oldKey, to: newKey, upgradeFormat: false, skippedRows, isSwitched: false };

async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

/** Every sealing has an IV of its own, and so another ciphertext and tag. */
function withoutRandomness({ sealed, ...report }: PageReport) {
  const lengths = sealed && { ...sealed, replacements: sealed.replacements.map(({ length }) => length) };
  return { ...report, sealed: lengths && { ...lengths, expected: { ...lengths.expected, tags: lengths.expected.tags.length } } };
}

async function* slowly<Item>(items: AsyncIterable<Item>): AsyncGenerator<Item> {
  for await (const item of items) {
    yield item;
    await sleep(200);
  }
}

describe('threads', () => {
  it('report of every page what one thread reports, in the pages’ order', async () => {
    const { url } = await withFailures();
    const database = new Database({ url });
    const pages = () => coveredPages(new EncryptedTables(database), [{ table: 'api_keys' }]);
    const isToSeal = ({ rows }: EncryptedPage) => rows === pageRows;
    const threads = workOnThreads(entry, 2)(plan, keyring);
    const reports = await collect(threads.work(pages(), () => false));
    const sealing = await collect(threads.work(pages(), isToSeal));
    await threads.close();
    const here = workHere(plan, keyring);
    expect(reports).toEqual(await collect(here.work(pages(), () => false)));
    expect(reports.flatMap(({ failures }) => failures.map(({ id }) => id))).toEqual(failing.map((index) => `row-${index}`));
    expect(sealing.map(withoutRandomness)).toEqual((await collect(here.work(pages(), isToSeal))).map(withoutRandomness));
    expect(sealing.map(({ sealed }) => sealed?.rowsRotated)).toEqual([998, 1000, 999, 1000, 1000, undefined]);
    await database.close();
  });

  it('rest in the background, until they are told to hurry, and nowhere else', async () => {
    const { url } = await largeTable();
    const database = new Database({ url });
    const telling = join(temporaryFolder(), 'telling.mjs');
    const code = `import { parentPort } from 'node:worker_threads';
      parentPort.on('message', ({ number, request }) => parentPort.postMessage({ number, outcome: { kind: "done", response: request.isThrottled } }));`;
    writeFileSync(telling, code);
    const whetherTheyRest = async (threads: PageWorkers) => {
      const pages = coveredPages(new EncryptedTables(database), [
        { table: 'api_keys', range: { from: 1n, to: BigInt(pageRows) } },
      ]);
      return collect(threads.work(pages, () => false));
    };
    const [background, command] = [workOnThreads(pathToFileURL(telling), 1, true), workOnThreads(pathToFileURL(telling), 1)].map(
      (start) => start(plan, keyring),
    ) as [PageWorkers, PageWorkers];
    expect([await whetherTheyRest(background), await whetherTheyRest(command)]).toEqual([[true], [false]]);
    background.hurry();
    expect(await whetherTheyRest(background)).toEqual([false]);
    for (const threads of [background, command]) await threads.close();
    await database.close();
  });

  it('that die fail the rotation, and keep nobody waiting', async () => {
    const { url } = await largeTable();
    const database = new Database({ url });
    const dying = join(temporaryFolder(), 'dying.mjs');
    const sayings = {
      'at once': 'process.exit(0)',
      'by an error': 'throw new Error("sample")',
      'between two pages': `import { parentPort } from 'node:worker_threads';
        parentPort.on('message', ({ number }) => { parentPort.postMessage({ number, outcome: { kind: "done", response: {} } }); setTimeout(() => process.exit(1), 10); });`,
    };
    for (const [how, code] of Object.entries(sayings)) {
      writeFileSync(dying, code);
      const threads: PageWorkers = workOnThreads(pathToFileURL(dying), 2)(plan, keyring);
      const pages = slowly(coveredPages(new EncryptedTables(database), [{ table: 'api_keys' }]));
      await expect(collect(threads.work(pages, () => true)), how).rejects.toThrow();
      await threads.close();
    }
    await database.close();
  });
});

describe('a row that does not open again once it is sealed', () => {
  it('ends the work before anything of it is handed over to be written', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const database = new Database({ url });
    const secrets = [newKey.secret, otherKey.secret];
    const turning = {
      ...newKey,
      get secret() {
        return secrets.shift() ?? newKey.secret;
      },
    };
    const pages = coveredPages(new EncryptedTables(database), [{ table: 'api_keys' }]);
    const work = collect(workHere({ ...plan, to: turning }, keyring).work(pages, () => true));
    await expect(work).rejects.toThrow('does not open again');
    await database.close();
  });
});

describe('key:rotate on a table of several pages', () => {
  it('puts every row under the new key', async () => {
    const { url, gateway } = await largeTable();
    const { code, stdout } = await runCli(['rotate', '--old', keyA, '--new', keyB], {
      NODE_ENV: 'production',
      DATABASE_URL: url,
    });
    expect([code, stdout.split('\n')[0]]).toEqual([0, `[rotate] rotated ${rows} of ${rows} row(s).`]);
    for (const index of [0, pageRows, rows - 1]) {
      expect(await gateway.open(keyB, `row-${index}`)).toBe(`sample-value-of-row-${index}`);
    }
  });

  it('names the rows that fail in the order of the table, and writes nothing', async () => {
    const { url, gateway } = await withFailures();
    const environment = { NODE_ENV: 'production', DATABASE_URL: url, PROVARA_MASTER_KEY: keyC };
    const { code, stderr } = await runCli(['rotate', '--old', keyA, '--new', keyB], environment);
    expect(code).toBe(3);
    const named = [...stderr.matchAll(/api_keys\.id=row-(\d+)/g)].map(([, index]) => Number(index));
    expect(named).toEqual(failing);
    expect(stderr).toContain(`other_key ${keyIdC}`);
    expect(await gateway.open(keyA, 'row-1')).toBe('sample-value-of-row-1');
  });
});
