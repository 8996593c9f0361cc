/** Whatever happens between the vault and its server, every outcome is a correct answer or a truthful error: nothing lost, nothing doubled. */

import { randomInt } from 'node:crypto';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ConfigurationError, StorageUnavailableError } from '../../../src/errors.ts';
import { ApiKeyStore } from '../../../src/store/api-keys.ts';
import { Database } from '../../../src/store/database.ts';
import { GuardFailedError, guard } from '../../../src/store/guards.ts';
import { type Fault, startFaultProxy } from '../../support/fault-proxy.ts';
import { GatewayDatabase } from '../../support/gateway.ts';
import { type SqldServer, startSqld } from '../../support/sqld.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, tester } from '../../support/vault.ts';

const faults: Fault[] = [
  'slow',
  'cut before',
  'cut after',
  'half an answer',
  '500 before',
  '500 after',
  'no JSON',
  'silence before',
  'silence after',
];

/** What a caller is told of a write that failed. */
const notDone = { code: 'storage_unavailable', details: undefined };
const mayBeDone = { code: 'storage_unavailable', details: { may_be_done: true } };

/** All that a write on a server needs beside what it writes to. */
const markTables = [
  { sql: 'CREATE TABLE vault_writes (id text PRIMARY KEY NOT NULL, changed text NOT NULL, written_at integer NOT NULL)' },
  { sql: 'CREATE TABLE vault_assertions (failed integer CHECK (failed IS NULL))' },
];

async function start(settings = {}) {
  const server = await startSqld();
  const proxy = await startFaultProxy(server.port);
  const vault = await startVault(proxy.url, settings);
  return { server, proxy, vault, database: new GatewayDatabase(server.url) };
}

/** The store alone, without a vault whose own requests would meet the faults. */
async function openThroughProxy(server: SqldServer) {
  const proxy = await startFaultProxy(server.port);
  const database = new Database({ url: proxy.url });
  onTestFinished(() => database.close());
  return { proxy, database };
}

/** A store of keys alone, which puts each under its name as its id. */
async function keysThroughProxy(server: SqldServer) {
  const { proxy, database } = await openThroughProxy(server);
  const store = new ApiKeyStore(database);
  const put = (name: string, sequence: number) => {
    const sealed = { tenantId: null, name, provider: 'openai', encryptedValue: 'aa', iv: 'bb', authTag: name, keyId: keyIdA };
    return store.put(sealed, name, 1, { chain: 'sample', sequence, line: '{}' });
  };
  return { proxy, store, put };
}

/** The fault for the next so many requests, and none after. */
function times(count: number, fault: Fault): () => Fault {
  let left = count;
  return () => {
    left -= 1;
    return left >= 0 ? fault : 'none';
  };
}

async function expectSettled(fault: Fault): Promise<void> {
  const { vault, proxy, database } = await start();
  await vault.services.masterKeys.activeKeyId();
  const { apiKeys } = vault.services;
  await apiKeys.isConfigured();
  proxy.fault = times(1, fault);
  const stored = await apiKeys.store(tester, { tenantId: null, name: 'K', provider: 'openai', value: 'sample-1' });
  expect(stored.isReplaced).toBe(false);
  expect(await database.rows()).toHaveLength(1);
  proxy.fault = times(1, fault);
  const replaced = await apiKeys.store(tester, { tenantId: null, name: 'K', provider: 'openai', value: 'sample-2' });
  expect([replaced.isReplaced, replaced.key.id]).toEqual([true, stored.key.id]);
  proxy.fault = times(1, fault);
  expect((await apiKeys.decrypt(tester, null, 'K')).value).toBe('sample-2');
  proxy.fault = times(1, fault);
  await apiKeys.delete(tester, null, stored.key.id);
  expect(await database.rows()).toEqual([]);
}

async function expectTruthful(fault: Fault): Promise<void> {
  const { vault, proxy, database } = await start();
  const { gateway } = vault;
  await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-1' });
  if (fault !== 'slow') {
    proxy.fault = () => fault;
    const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-2' });
    const answer = [stored.status, stored.body.error.type, stored.headers.get('retry-after')];
    expect(answer).toEqual([503, 'storage_unavailable', '1']);
    const ready = await gateway('GET', '/ready');
    expect([ready.status, ready.body.error.type]).toEqual([503, 'storage_unavailable']);
  }
  proxy.fault = () => 'none';
  expect((await gateway('GET', '/ready')).status).toBe(200);
  const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-3' });
  expect(stored.status).toBe(200);
  expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-3');
  expect(await database.rows()).toHaveLength(1);
}

/** Most of them are waited for: each vault meets its own beside the others. */
async function failuresOf(meet: (fault: Fault) => Promise<void>): Promise<string[]> {
  const outcomes = await Promise.allSettled(faults.map(meet));
  return outcomes.flatMap((outcome, index) => (outcome.status === 'rejected' ? [`${faults[index]}: ${outcome.reason}`] : []));
}

describe('every fault', () => {
  it('on the request of a store is settled: the store answers as if nothing had happened, and made one row', async () => {
    expect(await failuresOf(expectSettled)).toEqual([]);
  });

  it('that does not end is a truthful error in bounded time, and over as soon as it is over', { timeout: 120_000 }, async () => {
    expect(await failuresOf(expectTruthful)).toEqual([]);
  });
});

describe('a token that is refused', () => {
  it.each(['cut after', '500 after', 'half an answer'] as const)(
    'after an answer was lost (%s) is not told as if nothing had been written: it may have been',
    async (lost) => {
      const { proxy, database } = await openThroughProxy(await startSqld());
      await database.writeIdempotent([...markTables, { sql: 'CREATE TABLE sample (value text)' }]);
      const store = (value: string) => database.write([{ sql: 'INSERT INTO sample (value) VALUES (?)', args: [value] }]);
      await store('sample-1');
      // The last of them meets what would settle it.
      const coming: Fault[] = [lost, '401 before', '401 before'];
      proxy.fault = () => coming.shift() ?? 'none';
      await expect(store('sample-2')).rejects.toMatchObject(mayBeDone);
      expect(await database.read('SELECT value FROM sample')).toHaveLength(2);
      coming.push(lost, 'none', '401 before');
      await expect(store('sample-2a')).rejects.toMatchObject(mayBeDone);
      coming.push('401 before');
      await expect(store('sample-3')).rejects.toThrow(ConfigurationError);
      coming.push(lost, '401 before');
      await expect(database.read('SELECT value FROM sample')).rejects.toThrow(ConfigurationError);
      expect(await database.read('SELECT value FROM sample')).toHaveLength(3);
    },
  );
});

describe('a write', () => {
  it('is told as one that may be done only once it was sent', async () => {
    const { proxy, database } = await openThroughProxy(await startSqld());
    const coming: Fault[] = ['cut before', '401 before'];
    proxy.fault = () => coming.shift() ?? 'none';
    // What is sent first is a question for the server's clock.
    await expect(database.write([{ sql: 'CREATE TABLE sample (value text)' }])).rejects.toThrow(ConfigurationError);
  });

  it('is told as one that was not done where the server was away all the while', async () => {
    const server = await startSqld();
    const database = new Database({ url: server.url });
    onTestFinished(() => database.close());
    await database.writeIdempotent(markTables);
    const write = () => database.write([{ sql: 'CREATE TABLE IF NOT EXISTS sample (value text)' }]);
    await write();
    await server.stop();
    await expect(write()).rejects.toMatchObject(notDone);
  });

  it('is carried out also once the clock of the server has been set forward', async () => {
    const { database } = await openThroughProxy(await startSqld());
    await database.writeIdempotent(markTables);
    const write = () => database.write([{ sql: 'CREATE TABLE IF NOT EXISTS sample (value text)' }]);
    const now = performance.now.bind(performance);
    const ahead = vi.spyOn(performance, 'now').mockImplementation(() => now() + 60_000);
    onTestFinished(() => ahead.mockRestore());
    await write();
    // The process's own clock shows a minute less from here on: to it the server's is a minute ahead of what it was.
    ahead.mockRestore();
    await write();
  });

  it('of a key whose answer was lost is known by its mark, though nothing more of the table can be read', async () => {
    const { server } = await start();
    const { proxy, put, store } = await keysThroughProxy(server);
    expect(await put('K', 1)).toBe('inserted');
    const coming: Fault[] = ['cut after', 'none', 'none', '401 before'];
    proxy.fault = () => coming.shift() ?? 'none';
    expect([await put('L', 2), coming]).toEqual(['inserted', ['401 before']]);
    coming.splice(0, 1, 'cut after');
    expect(await put('L', 3)).toBe('replaced');
    expect((await store.findByName(null, 'L'))?.id).toBe('L');
  });

  it('of several keys at once that may have been carried out is told as such to all, and no part of it is sent again', async () => {
    const { server, database: present } = await start();
    const { proxy, put } = await keysThroughProxy(server);
    await put('K', 1);
    const coming: Fault[] = ['cut after', '401 before', '401 before'];
    proxy.fault = () => coming.shift() ?? 'none';
    const told = { reason: mayBeDone };
    expect(await Promise.allSettled([put('L', 2), put('M', 3)])).toMatchObject([told, told]);
    expect((await present.rows()).map(({ name }) => name)).toEqual(['K', 'L', 'M']);
  });
});

describe('a request that the network delivers after its caller was told that it failed', () => {
  it('is refused: what others have written since is neither overwritten nor brought back', { timeout: 120_000 }, async () => {
    const { server, vault, proxy, database } = await start();
    const other = await startVault(server.url);
    const store = (value: string) => ({ name: 'K', provider: 'openai', value });
    const stored = await vault.gateway('POST', '/v1/api-keys', store('sample-0'));
    await vault.gateway('POST', '/v1/api-keys', store('sample-1'));

    proxy.fault = () => 'late';
    expect((await vault.gateway('POST', '/v1/api-keys', store('sample-late'))).status).toBe(503);
    proxy.fault = () => 'none';
    expect((await other.gateway('POST', '/v1/api-keys', store('sample-2'))).status).toBe(200);
    expect(await proxy.release()).toBeGreaterThan(0);
    expect((await other.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-2');

    await vault.services.apiKeys.isConfigured();
    proxy.fault = () => 'late';
    await expect(vault.services.apiKeys.store(tester, { tenantId: null, ...store('sample-late') })).rejects.toThrow(
      StorageUnavailableError,
    );
    proxy.fault = () => 'none';
    await other.gateway('DELETE', `/v1/api-keys/${stored.body.key.id}`);
    expect(await proxy.release()).toBeGreaterThan(0);
    expect(await database.rows()).toEqual([]);
  });
});

describe('a write that the network delivers after its caller was told that it failed', () => {
  it('is refused by its deadline, though it comes the moment after', { timeout: 60_000 }, async () => {
    const { proxy, database } = await openThroughProxy(await startSqld());
    await database.writeIdempotent([...markTables, { sql: 'CREATE TABLE sample (value text)' }]);
    const store = (value: string) => database.write([{ sql: 'INSERT INTO sample (value) VALUES (?)', args: [value] }]);
    await store('sample-in-time');
    proxy.fault = () => 'late';
    await expect(store('sample-late')).rejects.toMatchObject(mayBeDone);
    proxy.fault = () => 'none';
    expect(await proxy.release()).toBeGreaterThan(0);
    expect(await database.read('SELECT value FROM sample')).toEqual([{ value: 'sample-in-time' }]);
  });
});

/** A table of one row, and how somebody writes and reads it whom no fault meets. */
async function startSample() {
  const server = await startSqld();
  const { proxy, database } = await openThroughProxy(server);
  const other = new Database({ url: server.url });
  onTestFinished(() => other.close());
  await database.writeIdempotent([...markTables, { sql: "CREATE TABLE sample AS SELECT 'sample-0' AS value" }]);
  const store = (by: Database, value: string) => by.write([{ sql: 'UPDATE sample SET value = ?', args: [value] }]);
  await store(database, 'sample-0');
  const stored = async () => (await other.read('SELECT value FROM sample'))[0]?.['value'];
  return { proxy, database, other, store, stored };
}

describe('a write that a proxy calls failed at once, and delivers later', { timeout: 60_000 }, () => {
  it('is told as one that was not done, and is not done any more', async () => {
    const { proxy, database, other, store, stored } = await startSample();
    // What settles it is lost once too.
    const settling = times(1, 'cut after');
    proxy.fault = (body) => (body.includes('UPDATE sample') ? '502, then late' : settling());
    await expect(store(database, 'sample-late')).rejects.toMatchObject(notDone);
    await store(other, 'sample-1');
    expect(await proxy.release()).toBeGreaterThan(1);
    expect(await stored()).toBe('sample-1');
  });

  it('brings back no key that others have deleted since, and deletes none that they have stored', async () => {
    const { server, database: present } = await start();
    const { proxy, store, put } = await keysThroughProxy(server);
    const { store: otherStore, put: putByOther } = await keysThroughProxy(server);
    const record = (sequence: number) => ({ chain: 'sample', sequence, line: '{}' });
    await put('K', 1);
    proxy.fault = (body) => (body.includes('api_keys') ? '502, then late' : 'none');
    await expect(put('K', 2)).rejects.toMatchObject(notDone);
    expect(await otherStore.delete(null, 'K', record(3))).toBe(true);
    expect(await proxy.release()).toBeGreaterThan(1);
    expect(await present.rows()).toEqual([]);
    await putByOther('K', 4);
    await expect(store.delete(null, 'K', record(5))).rejects.toMatchObject(notDone);
    expect(await putByOther('K', 6)).toBe('replaced');
    expect(await proxy.release()).toBeGreaterThan(1);
    expect(await present.rows()).toHaveLength(1);
  });

  it('is not done any more where a later attempt was refused for what others had written', async () => {
    const { proxy, database, other, store, stored } = await startSample();
    await store(other, 'sample-1');
    const isSample0 = guard('is_sample_0', "(SELECT value FROM sample) = 'sample-0'");
    proxy.fault = times(1, '502, then late');
    const write = database.write([isSample0, { sql: "UPDATE sample SET value = 'sample-late'" }]);
    await expect(write).rejects.toThrow(GuardFailedError);
    await store(other, 'sample-0');
    expect(await proxy.release()).toBe(1);
    expect(await stored()).toBe('sample-0');
  });

  it('is told as one that may be done once it cannot be any more, where it cannot be settled', async () => {
    const { proxy, database, other, store, stored } = await startSample();
    proxy.fault = (body) => (body.includes('UPDATE sample') ? '502, then late' : '500 before');
    const begunAtMs = performance.now();
    await expect(store(database, 'sample-late')).rejects.toMatchObject(mayBeDone);
    // The client of the vault waits for ten seconds.
    expect(performance.now() - begunAtMs).toBeLessThan(9_500);
    await store(other, 'sample-1');
    expect(await proxy.release()).toBeGreaterThan(1);
    expect(await stored()).toBe('sample-1');
  });
});

describe('a write that was carried out, and of which every answer was lost', () => {
  it.each(['500 after', 'cut after', 'silence after'] as const)('is answered as done (%s)', { timeout: 60_000 }, async (lost) => {
    const { proxy, database, store, stored } = await startSample();
    proxy.fault = (body) => (body.includes('UPDATE sample') ? lost : 'none');
    expect(await store(database, 'sample-1')).toEqual([1]);
    expect(await stored()).toBe('sample-1');
    expect(database.counters.failures).toBe(0);
  });
});

describe('a write to a server whose clock has been set back', () => {
  it('is refused by its deadline all the same, once another has been carried out since', { timeout: 60_000 }, async () => {
    const { proxy, database, store, stored } = await startSample();
    const now = performance.now.bind(performance);
    // The process's own clock shows a minute more from here on: to it the server's is a minute behind what it was.
    const ahead = vi.spyOn(performance, 'now').mockImplementation(() => now() + 60_000);
    onTestFinished(() => ahead.mockRestore());
    await store(database, 'sample-1');
    let attempts = 0;
    proxy.fault = (body) => {
      if (!body.includes('vault_writes')) return 'none';
      attempts += body.includes('UPDATE sample') ? 1 : 0;
      return body.includes('UPDATE sample') ? 'late' : 'silence before';
    };
    await expect(store(database, 'sample-late')).rejects.toMatchObject(mayBeDone);
    expect(await proxy.release()).toBe(attempts);
    expect(await stored()).toBe('sample-1');
  });
});

describe('the one commit of a rotation that a server does not carry out in time', () => {
  it.each([
    ['silence before', false],
    ['silence after', true],
  ] as const)('(%s) does not keep it from being finished', { timeout: 120_000 }, async (fault, isInOneCommit) => {
    const { proxy, vault, database } = await start({ PROVARA_MASTER_KEY_NEW: keyB });
    for (const id of ['a', 'b']) await database.insert(keyA, { id });
    let commits = 0;
    proxy.fault = (body) => {
      const isCommit = body.includes('encrypted_value = sealed.value') && body.includes('vault_active_key');
      commits += isCommit ? 1 : 0;
      return isCommit ? fault : 'none';
    };
    const { done } = await vault.services.rotator.start({});
    expect(await done).toMatchObject({ state: 'completed', rowsRotated: 2, rowsVerified: 2 });
    expect(commits).toBeGreaterThan(0);
    const { records } = (await vault.admin('GET', '/admin/audit?limit=1000')).body;
    const switches = records.filter(({ act }: { act: string }) => act === 'rotation.switch');
    expect(switches.map(({ details }: { details: unknown }) => details)).toMatchObject([{ in_one_commit: isInOneCommit }]);
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
  });
});

describe('more callers than the server is asked at once', () => {
  it('do not outlast a silence: the vault serves and is ready as soon as it is over', { timeout: 120_000 }, async () => {
    const { vault, proxy } = await start();
    await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample' });
    proxy.fault = () => 'silence before';
    const answers = await Promise.all(
      Array.from({ length: 60 }, () => vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([503]));
    proxy.fault = () => 'none';
    expect((await vault.gateway('GET', '/ready')).status).toBe(200);
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(200);
  });
});

describe('faults at random', () => {
  it('lose nothing that was acknowledged and double nothing', { timeout: 240_000 }, async () => {
    const { vault, proxy, database } = await start();
    const { apiKeys } = vault.services;
    const quick = faults.filter((fault) => !fault.startsWith('silence'));
    proxy.fault = () => (randomInt(10) < 4 ? (quick[randomInt(quick.length)] ?? 'none') : 'none');
    const acknowledged = new Map<string, string>();
    const unknown = new Set<string>();
    const work = Array.from({ length: 8 }, async (_, worker) => {
      for (let index = 0; index < 40; index += 1) {
        const name = `K-${worker}-${index % 10}`;
        const value = `sample-${worker}-${index}`;
        try {
          await apiKeys.store(tester, { tenantId: null, name, provider: 'openai', value });
          acknowledged.set(name, value);
          unknown.delete(name);
        } catch (error) {
          expect(error).toBeInstanceOf(StorageUnavailableError);
          unknown.add(name);
        }
      }
    });
    await Promise.all(work);
    proxy.fault = () => 'none';
    const rows = await database.rows();
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
    for (const [name, value] of acknowledged) {
      if (!unknown.has(name)) expect((await apiKeys.decrypt(tester, null, name)).value).toBe(value);
    }
    expect(acknowledged.size).toBeGreaterThan(50);
  });

  it('let a rotation be finished by the same call', { timeout: 240_000 }, async () => {
    const { vault, proxy, database } = await start({ PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: '10' });
    await database.fill(keyA, 60);
    const quick = faults.filter((fault) => !fault.startsWith('silence') && fault !== 'slow');
    proxy.fault = () => (randomInt(10) < 3 ? (quick[randomInt(quick.length)] ?? 'none') : 'none');
    for (let attempt = 0; ; attempt += 1) {
      const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
      if (status === 200) {
        expect(body.rotation.state).toBe('completed');
        break;
      }
      expect(['storage_unavailable', 'rotation_in_progress']).toContain(body.error.type);
      if (body.error.type === 'rotation_in_progress') await new Promise((resolve) => setTimeout(resolve, 1_000));
      expect(attempt).toBeLessThan(60);
    }
    proxy.fault = () => 'none';
    expect((await vault.admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdB]: 60 });
    for (let index = 0; index < 60; index += 1)
      expect(await database.open(keyB, `row-${index}`)).toBe(`sample-value-of-row-${index}`);
  });
});
