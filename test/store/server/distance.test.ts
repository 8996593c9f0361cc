/** A server that is far away, or behind a slow line, costs its distance and no more: nobody waits for others, and nothing healthy is given up. */

import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Keyring } from '../../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../../src/crypto/master-key.ts';
import { ActiveKey } from '../../../src/keys/active-key.ts';
import { Database } from '../../../src/store/database.ts';
import { EncryptedTables } from '../../../src/store/encrypted-tables.ts';
import { MasterKeyStore } from '../../../src/store/master-keys.ts';
import { startFaultProxy } from '../../support/fault-proxy.ts';
import { GatewayDatabase } from '../../support/gateway.ts';
import { startSqld } from '../../support/sqld.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault } from '../../support/vault.ts';

async function start() {
  const server = await startSqld();
  await startVault(server.url, { PROVARA_MASTER_KEY_NEW: keyB });
  const gateway = new GatewayDatabase(server.url);
  const proxy = await startFaultProxy(server.port);
  const database = new Database({ url: proxy.url });
  onTestFinished(() => database.close());
  return { gateway, proxy, database };
}

/** Hands on bytes, and counts the connections that were opened. */
async function startRelay(serverPort: number) {
  const relay = { url: '', connections: 0 };
  const server = createServer((incoming) => {
    relay.connections += 1;
    const outgoing = connect(serverPort, '127.0.0.1');
    incoming.pipe(outgoing).pipe(incoming);
    for (const [one, other] of [
      [incoming, outgoing],
      [outgoing, incoming],
    ] as const) {
      one.on('error', () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  relay.url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  onTestFinished(() => void server.close());
  return relay;
}

describe('a lone call', () => {
  it('finds a connection open, however long ago the one before it was', async () => {
    const relay = await startRelay((await startSqld()).port);
    const { gateway } = await startVault(relay.url);
    const connectionsOfCallAfterRest = async (): Promise<number> => {
      const before = relay.connections;
      await sleep(12_000);
      expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(404);
      return relay.connections - before;
    };
    await expect.poll(connectionsOfCallAfterRest).toBe(0);
  });
});

describe('a lookup', () => {
  it('waits behind none of the reads that are under way or wait', async () => {
    const { proxy, database } = await start();
    let requests = 0;
    proxy.fault = () => {
      requests += 1;
      return requests <= 20 ? 'late' : 'none';
    };
    const reads = Array.from({ length: 30 }, () => database.read('SELECT 1 AS found'));
    await expect.poll(() => requests).toBe(20);
    expect(String((await database.lookUp('SELECT ? AS found', [2]))[0]?.['found'])).toBe('2');
    // Nothing has been given up, nor let in, meanwhile.
    expect(requests).toBe(21);
    expect(await proxy.release()).toBe(20);
    expect(await Promise.all(reads)).toHaveLength(30);
  });
});

describe('the active key', () => {
  it('is asked for once by all who want it at a time, and anew by who has forgotten it meanwhile', async () => {
    const { gateway, proxy, database } = await start();
    let requests = 0;
    const activeKey = new ActiveKey(new MasterKeyStore(database), new Keyring([{ source: 'A', key: parseMasterKey(keyA) }]));
    proxy.fault = () => {
      requests += 1;
      return requests === 1 ? 'late' : 'none';
    };
    const before = Array.from({ length: 50 }, () => activeKey.id());
    await sleep(100);
    await gateway.run(`UPDATE vault_active_key SET key_id = '${keyIdB}'`);
    activeKey.forget();
    expect([await activeKey.id(), requests]).toEqual([keyIdB, 2]);
    await gateway.run(`UPDATE vault_active_key SET key_id = '${keyIdA}'`);
    await proxy.release();
    expect(new Set(await Promise.all(before))).toEqual(new Set([keyIdA]));
  });
});

describe('a page of all rows', () => {
  it('that takes its time over a slow line is waited for', async () => {
    const { gateway, proxy, database } = await start();
    await gateway.insert(keyA, { id: 'sample-row' });
    const pages = new EncryptedTables(database).pages('api_keys');
    // Not what asks which columns the table has: that names it as an argument.
    proxy.fault = (body) => (body.includes(String.raw`\"api_keys\"`) ? 'late' : 'none');
    const page = pages.next();
    await sleep(4_500);
    expect(await proxy.release()).toBe(1);
    expect((await page).value?.rows).toBe(1);
  });
});

describe('rows that are named', () => {
  it('are looked for at once, however many they are', async () => {
    const { gateway, proxy, database } = await start();
    for (const id of ['a', 'rowid:1', '5']) await gateway.insert(keyA, { id });
    let requests = 0;
    proxy.fault = () => {
      requests += 1;
      return 'none';
    };
    const ids = [...Array.from({ length: 500 }, (_, index) => `missing-${index}`), 'a', '5', 'rowid:1', 'rowid:2'];
    expect(await new EncryptedTables(database).idsAmong('api_keys', ids)).toEqual(new Set(['a', '5', 'rowid:1']));
    // What the table looks like, and they.
    expect(requests).toBe(2);
  });
});

describe('/ready', () => {
  async function startBehindProxy() {
    const proxy = await startFaultProxy((await startSqld()).port);
    const { gateway } = await startVault(proxy.url);
    const asked = { requests: 0 };
    const holdBack = (): void => {
      proxy.fault = () => {
        asked.requests += 1;
        return 'late';
      };
    };
    return { ask: () => gateway('GET', '/ready'), asked, holdBack, proxy };
  }

  it('asks for all that it must know at once, and not for one thing after the other', async () => {
    const { ask, asked, holdBack, proxy } = await startBehindProxy();
    holdBack();
    const answer = ask();
    // The rotation that is unfinished, the active key, and the tables.
    await expect.poll(() => asked.requests).toBeGreaterThanOrEqual(3);
    proxy.fault = () => 'none';
    await proxy.release();
    expect((await answer).status).toBe(200);
  });

  it('looks once for all who ask at a time, which anybody may', async () => {
    const { ask, asked, holdBack, proxy } = await startBehindProxy();
    holdBack();
    const answers = Array.from({ length: 50 }, ask);
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual(Array(50).fill(503));
    // Those of a replica's own among them.
    expect(asked.requests).toBeLessThan(10);
    proxy.fault = () => 'none';
    await expect.poll(async () => (await ask()).status).toBe(200);
  });
});
