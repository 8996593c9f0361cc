/** In the service the threads that open all rows rest after every few, so that requests find a processor; nobody else does. */

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { runCli, startServer } from '../support/process.ts';
import { sendSnapshot, takeSnapshot } from '../support/snapshot.ts';
import {
  adminToken,
  caller,
  environmentFor,
  gatewayToken,
  keyA,
  keyB,
  temporaryDatabase,
  temporaryFolder,
} from '../support/vault.ts';

const rows = 4_000;
const few = 20;

/** A table of many rows, and how often each thread that rests has done so, by the name of its entry. */
async function fill({
  characters = 0,
  settings = {},
}: {
  characters?: number;
  settings?: Readonly<Record<string, string>>;
} = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, rows, characters);
  const noted = join(temporaryFolder(), 'rests');
  const environment = environmentFor(url, {
    PROVARA_MASTER_KEY_NEW: keyB,
    NODE_OPTIONS: `--import ${new URL('../support/note-rests.mjs', import.meta.url)}`,
    NOTED_RESTS: noted,
    ...settings,
  });
  const forget = () => writeFile(noted, '');
  const rests = async (): Promise<Record<string, number>> => {
    const counts: Record<string, number> = {};
    for (const name of (await readFile(noted, 'utf8')).split('\n').filter((line) => line !== ''))
      counts[name] = (counts[name] ?? 0) + 1;
    return counts;
  };
  await forget();
  return { environment, rests, forget };
}

async function start(options?: Parameters<typeof fill>[0]) {
  const { environment, rests, forget } = await fill(options);
  const server = await startServer(environment);
  const [admin, gateway] = [caller(server.origin, adminToken), caller(server.origin, gatewayToken)];
  // The first survey of a start is over then.
  expect((await admin('POST', '/admin/verify')).status).toBe(200);
  return { server, admin, gateway, rests, forget };
}

const rotate = '/admin/rotate/execute?wait=300';

it('a survey rests, on its own thread', async () => {
  const { rests } = await start();
  const { 'survey-thread': ofSurvey, ...others } = await rests();
  expect([ofSurvey, others]).toEqual([expect.any(Number), {}]);
  expect(ofSurvey).toBeGreaterThan(few);
});

it.each([
  ['small', 0],
  // So that no page has as many rows as it may.
  ['large', 1_100],
])('a rotation of %s values rests on the thread that opens them', async (_size, characters) => {
  const { admin, rests, forget } = await start({ characters, settings: { VAULT_ROTATION_ATOMIC_ROWS: '0' } });
  await forget();
  expect((await admin('POST', rotate)).status).toBe(200);
  const { 'page-thread': ofPages, 'survey-thread': _ofReadiness, ...others } = await rests();
  expect(others).toEqual({});
  expect(ofPages).toBeGreaterThan(few);
});

it('a rotation whose one commit was in vain rests no more', async () => {
  const { admin, rests, forget } = await start();
  await forget();
  expect((await admin('POST', rotate)).body.rotation.state).toBe('completed');
  const ofAlone = (await rests())['page-thread'];
  const other = await start();
  await other.forget();
  let isOver = false;
  const storing = (async () => {
    for (; !isOver; await other.gateway('POST', '/v1/api-keys', { name: 'row-1', provider: 'openai', value: 'sample-value' }));
  })();
  expect((await other.admin('POST', rotate)).body.rotation.state).toBe('completed');
  isOver = true;
  await storing;
  // Only the first gate rested; five of them, and a verification, would have done so several times as often.
  expect((await other.rests())['page-thread']).toBeLessThan(2 * (ofAlone ?? 0));
});

it('the snapshot before a rotation rests', async () => {
  const { admin, rests, forget } = await start({ settings: { VAULT_SNAPSHOT_DIR: temporaryFolder() } });
  await forget();
  expect((await admin('POST', rotate)).status).toBe(200);
  expect((await rests())['rotation-thread']).toBeGreaterThan(few);
});

it('a snapshot rests, and a restore does not', async () => {
  const { server, rests, forget } = await start();
  await forget();
  const snapshot = await takeSnapshot(server);
  expect((await rests())['snapshot-thread']).toBeGreaterThan(few);
  await forget();
  expect((await sendSnapshot(server, snapshot)).body).toEqual({ restored: 0, kept: rows });
  expect((await rests())['snapshot-thread']).toBeUndefined();
});

it('no command rests', async () => {
  const { environment, rests } = await fill({ settings: { VAULT_SNAPSHOT_DIR: temporaryFolder() } });
  for (const args of [['rotate', '--old', keyA, '--new', keyB], ['verify']])
    expect((await runCli(args, environment)).code).toBe(0);
  expect(await rests()).toEqual({});
});
