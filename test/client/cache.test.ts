/** A cached key is answered for its time, a stale one only while the vault is away, and neither once the vault has refused it. */

import { describe, expect, it, onTestFinished } from 'vitest';
import { type KeyCacheOptions, VaultClient, VaultConnectionError } from '../../src/client/index.ts';
import { gatewayToken, keyA, startVault, temporaryDatabase } from '../support/vault.ts';
import { refusal, startVaultProxy } from '../support/vault-proxy.ts';

const long: KeyCacheOptions = { ttlMs: 60_000, staleMs: 60_000 };
/** Stale at once, and for long. */
const short: KeyCacheOptions = { ttlMs: 1, staleMs: 60_000 };

async function start(cache: KeyCacheOptions | undefined) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.insert(keyA, { id: 'row', name: 'K', value: 'sample-value' });
  const { origin, gateway: direct } = await startVault(url);
  const proxy = await startVaultProxy(origin);
  const vault = new VaultClient({ url: proxy.url, token: gatewayToken, retries: 0, cache });
  onTestFinished(() => vault.close());
  const read = (body = {}) => vault.decryptKey({ name: 'K', ...body });
  return { vault, proxy, direct, database: gateway, read };
}

const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('without a cache', () => {
  it('every decrypt asks the vault, and none is answered once it is away', async () => {
    const { proxy, read } = await start(undefined);
    await read();
    await read();
    expect(proxy.calls).toHaveLength(2);
    proxy.fault = () => 'cut before';
    await expect(read()).rejects.toThrow(VaultConnectionError);
  });
});

describe('a fresh key', () => {
  it('is answered without a request, to its tenant and name alone', async () => {
    const { proxy, read, database } = await start(long);
    await database.insert(keyA, { id: 'acme-row', name: 'K', tenantId: 'acme', value: 'sample-of-acme' });
    await database.insert(keyA, { id: 'colon', name: 'c', tenantId: 'a:b' });
    await database.insert(keyA, { id: 'of-no-tenant', name: 'x:y' });
    for (let round = 0; round < 3; round += 1) {
      expect((await read()).value).toBe('sample-value');
      expect((await read({ tenant_id: 'acme' })).value).toBe('sample-of-acme');
      expect((await read({ tenant_id: 'a:b', name: 'c' })).id).toBe('colon');
      expect((await read({ name: 'x:y' })).id).toBe('of-no-tenant');
    }
    expect(proxy.calls).toHaveLength(4);
    for (const body of [{ tenant_id: '' }, { name: '4:acmeK' }, { tenant_id: 'acm', name: 'eK' }, { name: '\u0000K' }]) {
      await expect(read(body)).rejects.toThrow();
    }
    for (const body of [
      { tenant_id: 'a', name: 'b:c' },
      { tenant_id: '-x', name: 'y' },
    ]) {
      await expect(read(body)).rejects.toThrow();
    }
    expect(proxy.calls).toHaveLength(10);
  });

  it('is not answered to a caller whose tenant is no text, though it reads alike', async () => {
    const { read, database } = await start(long);
    await database.insert(keyA, { id: 'other', name: 'cmename', tenantId: 'a' });
    await read({ tenant_id: 'a', name: 'cmename' });
    await expect(read({ tenant_id: ['acme'], name: 'name' })).rejects.toMatchObject({ type: 'validation_error' });
  });

  it('cannot be changed by one caller for the next', async () => {
    const { read } = await start(long);
    const key = (await read()) as { value: string };
    expect(() => {
      key.value = 'sample-other';
    }).toThrow(TypeError);
  });

  it('is asked for anew after a store or a delete by this client, also one whose answer was lost', async () => {
    const { vault, proxy, read } = await start(long);
    await read();
    const { key } = await vault.storeKey({ name: 'K', provider: 'openai', value: 'sample-2' });
    expect((await read()).value).toBe('sample-2');
    proxy.fault = () => 'cut after';
    await expect(vault.storeKey({ name: 'K', provider: 'openai', value: 'sample-3' })).rejects.toThrow(VaultConnectionError);
    proxy.fault = () => 'none';
    expect((await read()).value).toBe('sample-3');
    await vault.deleteKey(key.id);
    await expect(read()).rejects.toMatchObject({ type: 'not_found' });
  });

  it('is asked for anew once the caller has it forgotten', async () => {
    const { vault, read, direct } = await start(long);
    await read();
    await direct('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-2' });
    expect((await read()).value).toBe('sample-value');
    vault.forgetKey({ name: 'K' });
    expect((await read()).value).toBe('sample-2');
  });

  it('is not what a decrypt answers that a store has overtaken', async () => {
    const { vault, proxy, read } = await start(long);
    proxy.fault = (call) => (call === 0 ? 'answer held' : 'none');
    const early = read();
    await expect.poll(() => proxy.withheld).toBe(1);
    await vault.storeKey({ name: 'K', provider: 'openai', value: 'sample-2' });
    expect((await read()).value).toBe('sample-2');
    proxy.release();
    expect((await early).value).toBe('sample-value');
    expect((await read()).value).toBe('sample-2');
  });

  it('is not what a decrypt answers that a delete has overtaken', async () => {
    const { vault, proxy, read } = await start(long);
    proxy.fault = (call) => (call === 0 ? 'answer held' : 'none');
    const early = read();
    await expect.poll(() => proxy.withheld).toBe(1);
    await vault.deleteKey('row');
    proxy.release();
    expect((await early).value).toBe('sample-value');
    await expect(read()).rejects.toMatchObject({ type: 'not_found' });
  });

  it('is asked for anew once the vault has said that nothing has its id', async () => {
    const { vault, read, direct } = await start(long);
    const { id } = await read();
    await direct('DELETE', `/v1/api-keys/${id}`);
    await expect(vault.getKey(id)).rejects.toMatchObject({ type: 'not_found' });
    await expect(read()).rejects.toMatchObject({ type: 'not_found' });
  });

  it('leaves when there are too many: the least recently used goes first', async () => {
    const { proxy, read, database } = await start({ ...long, maxEntries: 2 });
    for (const id of ['A', 'B']) await database.insert(keyA, { id });
    for (const name of ['K', 'A', 'K', 'B', 'K']) await read({ name });
    expect(proxy.calls).toHaveLength(3);
    await read({ name: 'A' });
    expect(proxy.calls).toHaveLength(4);
  });
});

describe('a stale key', () => {
  const away = [
    ['cannot be reached', 'cut before'],
    ['has no database', refusal(503, 'storage_unavailable')],
    ['is behind a proxy that finds it gone', { status: 502, body: 'Bad Gateway' }],
  ] as const;
  it.each(away)('is answered while the vault %s, and the operator is told', async (_name, fault) => {
    const told: string[] = [];
    const { proxy, read } = await start({ ...short, onStale: ({ type }) => told.push(type) });
    await read();
    await pass(5);
    proxy.fault = () => fault;
    for (let round = 0; round < 20; round += 1) expect((await read()).value).toBe('sample-value');
    // The vault is asked again after a while, not for every call.
    expect(told.length).toBeLessThan(5);
    expect(proxy.calls).toHaveLength(1 + told.length);
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('broken on purpose');
      },
    ],
    ['rejects', () => Promise.reject(new Error('broken on purpose'))],
  ])('is answered also where telling the operator %s', async (_name, onStale) => {
    const { proxy, read } = await start({ ...short, onStale });
    await read();
    await pass(5);
    proxy.fault = () => 'cut before';
    expect((await read()).value).toBe('sample-value');
  });

  it('is answered after one short try where the vault is silent', async () => {
    const { proxy, read } = await start(short);
    await read();
    await pass(5);
    proxy.fault = () => 'silence';
    expect((await read()).value).toBe('sample-value');
    expect(proxy.calls).toHaveLength(2);
  });

  it('is not answered where the vault is there: its answer counts', async () => {
    const { read, direct } = await start(short);
    await read();
    await direct('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-2' });
    await pass(5);
    expect((await read()).value).toBe('sample-2');
  });

  it.each([
    [401, 'auth_error'],
    [403, 'forbidden'],
    [404, 'not_found'],
    [422, 'decrypt_failed'],
    [401, 'constructor'],
    [403, '__proto__'],
    [404, 'toString'],
  ])('is never answered after a %i, also not when the vault is away later', async (status, type) => {
    const { proxy, read } = await start(short);
    await read();
    await pass(5);
    proxy.fault = () => refusal(status, type);
    await expect(read()).rejects.toMatchObject({ name: expect.stringMatching(/^Vault/), status });
    proxy.fault = () => 'cut before';
    await expect(read()).rejects.toThrow(VaultConnectionError);
  });

  it('of any name is never answered after a 401 to whatever call', async () => {
    const { vault, proxy, read } = await start(long);
    await read();
    proxy.fault = () => refusal(401, 'auth_error');
    await expect(vault.listTenants()).rejects.toMatchObject({ status: 401 });
    proxy.fault = () => 'cut before';
    await expect(read()).rejects.toThrow(VaultConnectionError);
  });

  it.each([
    [429, 'rate_limited'],
    [500, 'internal_error'],
    [503, 'configuration_error'],
  ])('is not answered to a %i either, for the vault was reached, but is once it is away', async (status, type) => {
    const { proxy, read } = await start(short);
    await read();
    await pass(5);
    proxy.fault = () => refusal(status, type);
    await expect(read()).rejects.toMatchObject({ status, type });
    proxy.fault = () => 'cut before';
    expect((await read()).value).toBe('sample-value');
  });

  it.each(['connection_error', 'timeout', 'constructor'])('is not answered where an answer claims to be a %s', async (type) => {
    const { proxy, read } = await start(short);
    await read();
    await pass(5);
    proxy.fault = () => refusal(500, type);
    await expect(read()).rejects.toMatchObject({ status: 500 });
  });

  it('is answered for its bounded time and no longer', async () => {
    const { proxy, read } = await start({ ttlMs: 1, staleMs: 100 });
    await read();
    await pass(5);
    proxy.fault = () => 'cut before';
    await pass(150);
    await expect(read()).rejects.toThrow(VaultConnectionError);
  });
});

it('a cache without a bound in time or number is refused', () => {
  const make = (cache: KeyCacheOptions) => new VaultClient({ url: 'http://127.0.0.1:9', token: 'sample-token', cache });
  for (const cache of [
    { ttlMs: 0 },
    { ttlMs: -1 },
    { ttlMs: Number.POSITIVE_INFINITY },
    { ttlMs: 1, staleMs: -1 },
    { ttlMs: Number.NaN },
    { ttlMs: 1, staleMs: 86_400_000 },
    { ttlMs: 1, maxEntries: 0 },
    { ttlMs: 1, maxEntries: Number.POSITIVE_INFINITY },
  ]) {
    expect(() => make(cache)).toThrow(TypeError);
  }
});
