/** What passes is outlived, what may be repeated is, what may not is told, and every caller can take leave. */

import { describe, expect, it, onTestFinished } from 'vitest';
import {
  VaultClient,
  type VaultClientOptions,
  VaultConfigurationError,
  VaultConnectionError,
  VaultInternalError,
  VaultNotFoundError,
  VaultStorageUnavailableError,
  VaultTimeoutError,
  VaultUnexpectedAnswerError,
} from '../../src/client/index.ts';
import { gatewayToken, keyA, startVault, temporaryDatabase } from '../support/vault.ts';
import { type CallFault, refusal, startVaultProxy } from '../support/vault-proxy.ts';

async function start(options: Partial<VaultClientOptions> = {}) {
  const { url, gateway } = await temporaryDatabase();
  const { origin, gateway: direct } = await startVault(url);
  const proxy = await startVaultProxy(origin);
  const vault = new VaultClient({ url: proxy.url, token: gatewayToken, ...options });
  onTestFinished(() => vault.close());
  await gateway.insert(keyA, { id: 'row', name: 'K', value: 'sample-value' });
  return { vault, proxy, direct, database: gateway };
}

const first = (fault: CallFault) => (call: number) => (call === 0 ? fault : 'none');
const unavailable = refusal(503, 'storage_unavailable');
/** And whether a store is repeated after it: only where it is known that nothing was done. */
const passing: [string, CallFault, boolean][] = [
  ['a connection that breaks before the call', 'cut before', false],
  ['an answer that is lost', 'cut after', false],
  ['an unavailable database', unavailable, true],
  ['a proxy without a vault behind it', { status: 502, body: '<html>Bad Gateway</html>' }, false],
];

describe('a passing failure', () => {
  it.each(passing)('%s is outlived by every kind of call', async (_name, fault, isStoreRepeated) => {
    const { vault, proxy, direct } = await start();
    const calls = [
      () => vault.decryptKey({ name: 'K' }),
      () => vault.listKeys(),
      () => vault.getKey('row'),
      () => vault.encrypt({ plaintext: 'a' }),
      ...(isStoreRepeated ? [() => vault.storeKey({ name: 'NEW', provider: 'openai', value: 'sample-new' })] : []),
      () => vault.deleteKey('row'),
    ];
    for (const call of calls) {
      const before = proxy.calls.length;
      proxy.fault = (number) => (number === before ? fault : 'none');
      await call();
      expect(proxy.calls.length - before).toBe(2);
    }
    const names = (await direct('GET', '/v1/api-keys')).body.keys.map(({ name }: { name: string }) => name);
    expect(names).toEqual(isStoreRepeated ? ['NEW'] : []);
  });

  it('that lasts is told after the given number of repetitions, under one request id', async () => {
    const { vault, proxy } = await start({ retries: 3 });
    proxy.fault = () => unavailable;
    await expect(vault.decryptKey({ name: 'K' })).rejects.toThrow(VaultStorageUnavailableError);
    expect(new Set(proxy.calls.map(({ headers }) => headers['x-request-id'])).size).toBe(1);
    expect(proxy.calls).toHaveLength(4);
    proxy.fault = () => 'cut before';
    await expect(vault.decryptKey({ name: 'K' })).rejects.toThrow(VaultConnectionError);
    expect(proxy.calls).toHaveLength(8);
  });

  it('is repeated no sooner than Retry-After says, and not at all where that is long', async () => {
    const { vault, proxy } = await start();
    proxy.fault = first(refusal(503, 'storage_unavailable', { 'retry-after': '1' }));
    const startedAtMs = performance.now();
    await vault.decryptKey({ name: 'K' });
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(990);
    const before = proxy.calls.length;
    proxy.fault = () => refusal(429, 'rate_limited', { 'retry-after': '60' });
    await expect(vault.decryptKey({ name: 'K' })).rejects.toMatchObject({ type: 'rate_limited', retryAfterSeconds: 60 });
    expect(proxy.calls.length - before).toBe(1);
  });

  it('is not what a refusal is: nothing else is repeated', async () => {
    const { vault, proxy } = await start();
    const cases = [
      [refusal(503, 'configuration_error'), VaultConfigurationError],
      [refusal(500, 'internal_error'), VaultInternalError],
      [refusal(404, 'not_found'), VaultNotFoundError],
      [{ status: 404, body: 'no JSON' }, VaultUnexpectedAnswerError],
      [{ status: 200, body: 'no JSON' }, VaultUnexpectedAnswerError],
      [{ status: 200, body: '{}' }, VaultUnexpectedAnswerError],
      [{ status: 200, body: 'null' }, VaultUnexpectedAnswerError],
    ] as const;
    for (const [fault, Class] of cases) {
      const before = proxy.calls.length;
      proxy.fault = () => fault;
      await expect(vault.decryptKey({ name: 'K' })).rejects.toThrow(Class);
      expect(proxy.calls.length - before).toBe(1);
    }
  });
});

describe('a delete', () => {
  it('whose answer was lost is done, though the repetition finds nothing', async () => {
    const { vault, proxy, database } = await start();
    proxy.fault = first('cut after');
    await vault.deleteKey('row');
    expect(proxy.calls).toHaveLength(2);
    expect(await database.rows()).toEqual([]);
  });

  it('of nothing is told, also where it was put off for its rate', async () => {
    const { vault, proxy } = await start();
    await expect(vault.deleteKey('none')).rejects.toThrow(VaultNotFoundError);
    const before = proxy.calls.length;
    proxy.fault = (call) => (call === before ? refusal(429, 'rate_limited', { 'retry-after': '0' }) : 'none');
    await expect(vault.deleteKey('none')).rejects.toThrow(VaultNotFoundError);
  });

  it('that the vault has refused is not taken for done, though its repetition finds nothing', async () => {
    const { vault, proxy } = await start();
    proxy.fault = first(refusal(503, 'storage_unavailable', { 'retry-after': '0' }));
    await expect(vault.deleteKey('none')).rejects.toThrow(VaultNotFoundError);
    expect(proxy.calls).toHaveLength(2);
  });
});

describe('a store', () => {
  it('whose answer was lost is not repeated, since somebody may have stored a newer key meanwhile', async () => {
    const { vault, proxy, database } = await start();
    proxy.fault = first('cut after');
    await expect(vault.storeKey({ name: 'NEW', provider: 'openai', value: 'sample-new' })).rejects.toThrow(VaultConnectionError);
    expect(proxy.calls).toHaveLength(1);
    expect(await database.rows()).toHaveLength(2);
  });

  it('of which the vault itself does not know whether it was done is not repeated either', async () => {
    const { vault, proxy } = await start();
    const error = { type: 'storage_unavailable', message: 'sample', request_id: 'r', details: { may_be_done: true } };
    proxy.fault = first({ status: 503, headers: { 'retry-after': '0' }, body: JSON.stringify({ error }) });
    const stored = vault.storeKey({ name: 'NEW', provider: 'openai', value: 'sample-new' });
    await expect(stored).rejects.toThrow(VaultStorageUnavailableError);
    expect(proxy.calls).toHaveLength(1);
  });

  it('that the vault has refused for now is repeated', async () => {
    const { vault, proxy } = await start();
    proxy.fault = first(refusal(503, 'storage_unavailable', { 'retry-after': '0' }));
    expect((await vault.storeKey({ name: 'NEW', provider: 'openai', value: 'sample-new' })).updated).toBe(false);
    expect(proxy.calls).toHaveLength(2);
  });
});

describe('a vault that is silent', () => {
  it('is given up after the timeout, and the connection with it', async () => {
    const { vault, proxy } = await start({ timeoutMs: 300, retries: 1 });
    proxy.fault = () => 'silence';
    await expect(vault.decryptKey({ name: 'K' })).rejects.toThrow(VaultTimeoutError);
    expect(proxy.calls).toHaveLength(2);
    await expect.poll(() => proxy.abandoned).toBe(2);
  });

  it('keeps no caller who takes leave: the call ends with the signal’s reason', async () => {
    const { vault, proxy } = await start();
    proxy.fault = () => 'silence';
    const leave = new AbortController();
    const calls = [
      vault.decryptKey({ name: 'K' }, { signal: leave.signal }),
      vault.listKeys({}, { signal: leave.signal }),
      vault.storeKey({ name: 'N', provider: 'openai', value: 'sample' }, { signal: leave.signal }),
      vault.eachDecryptedKey({}, { signal: leave.signal }).next(),
    ];
    await expect.poll(() => proxy.calls.length).toBe(4);
    leave.abort(new Error('the caller has gone'));
    for (const call of calls) await expect(call).rejects.toThrow('the caller has gone');
    await expect.poll(() => proxy.abandoned).toBe(4);
    await expect(vault.listKeys({}, { signal: leave.signal })).rejects.toThrow('the caller has gone');
    expect(proxy.calls).toHaveLength(4);
  });

  it('keeps no caller between two attempts either', async () => {
    const { vault, proxy } = await start();
    proxy.fault = () => refusal(503, 'storage_unavailable', { 'retry-after': '5' });
    const leave = new AbortController();
    const call = vault.listKeys({}, { signal: leave.signal });
    await expect.poll(() => proxy.calls.length).toBe(1);
    leave.abort(new Error('the caller has gone'));
    await expect(call).rejects.toThrow('the caller has gone');
    expect(proxy.calls).toHaveLength(1);
  });
});

describe('decrypts of one key at the same time', () => {
  it('are one request, also where one of the callers takes leave', async () => {
    const { vault, proxy } = await start();
    proxy.fault = () => 'held';
    const leave = new AbortController();
    const going = vault.decryptKey({ name: 'K' }, { signal: leave.signal });
    const staying = [vault.decryptKey({ name: 'K' }), vault.decryptKey({ tenant_id: null, name: 'K' })];
    await expect.poll(() => proxy.calls.length).toBe(1);
    leave.abort(new Error('the caller has gone'));
    await expect(going).rejects.toThrow('the caller has gone');
    proxy.release();
    for (const call of staying) expect((await call).value).toBe('sample-value');
    expect([proxy.calls.length, proxy.abandoned]).toEqual([1, 0]);
  });

  it('are answered alike, and asked anew the next time', async () => {
    const { vault, proxy, direct } = await start();
    const values = await Promise.all(Array.from({ length: 50 }, () => vault.decryptKey({ name: 'K' })));
    expect(new Set(values.map(({ value }) => value))).toEqual(new Set(['sample-value']));
    expect(proxy.calls).toHaveLength(1);
    await direct('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-next' });
    expect((await vault.decryptKey({ name: 'K' })).value).toBe('sample-next');
  });

  it('end their request once every caller has taken leave', async () => {
    const { vault, proxy } = await start();
    proxy.fault = () => 'silence';
    const leave = new AbortController();
    const calls = [1, 2].map(() => vault.decryptKey({ name: 'K' }, { signal: leave.signal }));
    await expect.poll(() => proxy.calls.length).toBe(1);
    leave.abort();
    await Promise.allSettled(calls);
    await expect.poll(() => proxy.abandoned).toBe(1);
  });
});

it('many calls share few connections, which are kept', async () => {
  const { vault, proxy } = await start({ connections: 4 });
  for (let round = 0; round < 5; round += 1) await Promise.all(Array.from({ length: 20 }, () => vault.listKeys()));
  expect([proxy.calls.length, proxy.connections()]).toEqual([100, 4]);
});
