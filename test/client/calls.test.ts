/** The client against a real vault: every call of the contract, and every refusal as the class that names it. */

import { inspect } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  VaultAuthError,
  VaultClient,
  VaultClientError,
  VaultDecryptFailedError,
  VaultForbiddenError,
  VaultNotFoundError,
  VaultPayloadTooLargeError,
  VaultRateLimitedError,
  VaultValidationError,
} from '../../src/client/index.ts';
import { gatewaySeal } from '../support/gateway.ts';
import { gatewayToken, keyA, keyIdA, startVault, temporaryDatabase } from '../support/vault.ts';

function clientOf(url: string, token = gatewayToken): VaultClient {
  const client = new VaultClient({ url, token });
  onTestFinished(() => client.close());
  return client;
}

async function startWithClient(settings = {}) {
  const { url, gateway } = await temporaryDatabase();
  const { origin } = await startVault(url, settings);
  return { origin, database: gateway, vault: clientOf(origin) };
}

describe('provider keys', () => {
  it('are stored, replaced, opened, listed, got and deleted, within their tenant', async () => {
    const { vault } = await startWithClient();
    const body = { tenant_id: 'acme', name: 'OPENAI_API_KEY', provider: 'openai', value: 'sample-provider-key-0001' };
    const { key, updated } = await vault.storeKey(body);
    expect([updated, key.tenant_id, key.masked_value]).toEqual([false, 'acme', '••••••••0001']);
    expect((await vault.storeKey({ ...body, value: 'sample-provider-key-0002' })).updated).toBe(true);
    expect(await vault.decryptKey({ tenant_id: 'acme', name: body.name })).toEqual({
      ...{ id: key.id, tenant_id: 'acme', name: body.name, provider: 'openai', value: 'sample-provider-key-0002' },
    });
    expect((await vault.listKeys({ tenant_id: 'acme', provider: 'openai' })).keys).toHaveLength(1);
    expect((await vault.listKeys({ tenant_id: null })).keys).toEqual([]);
    expect((await vault.getKey(key.id, { tenant_id: 'acme' })).name).toBe(body.name);
    await expect(vault.getKey(key.id)).rejects.toThrow(VaultNotFoundError);
    await expect(vault.deleteKey(key.id, { tenant_id: 'other' })).rejects.toThrow(VaultNotFoundError);
    await vault.deleteKey(key.id, { tenant_id: 'acme' });
    await expect(vault.decryptKey({ tenant_id: 'acme', name: body.name })).rejects.toThrow(VaultNotFoundError);
    expect(await vault.isConfigured()).toBe(true);
  });

  it('and tenants are walked page by page to the end, and a row that does not open does not hide the rest', async () => {
    const { vault, database } = await startWithClient();
    await database.fill(keyA, 230);
    await database.insert('c3'.repeat(32), { id: 'foreign' });
    for (const id of ['a', 'b', 'c']) await database.insert(keyA, { id, tenantId: `tenant-${id}` });
    const opened = new Map<string, string>();
    for await (const { name, value, error } of vault.eachDecryptedKey()) opened.set(name, value ?? error?.type ?? '');
    expect([opened.size, opened.get('row-229'), opened.get('foreign')]).toEqual([
      231,
      'sample-value-of-row-229',
      'decrypt_failed',
    ]);
    const listed: string[] = [];
    for await (const { id } of vault.eachKey({ limit: 50 })) listed.push(id);
    expect(new Set(listed).size).toBe(231);
    const tenants: (string | null)[] = [];
    for await (const { tenant_id } of vault.eachTenant({ limit: 1 })) tenants.push(tenant_id);
    expect(tenants).toEqual([null, 'tenant-a', 'tenant-b', 'tenant-c']);
  });
});

describe('stateless calls', () => {
  it('seal, open and rewrap one text or many, and open the three columns of another table', async () => {
    const { vault } = await startWithClient();
    const { ciphertext, key_id } = await vault.encrypt({ plaintext: 'sample', context: 'a' });
    expect(key_id).toBe(keyIdA);
    expect((await vault.decrypt({ ciphertext, context: 'a' })).plaintext).toBe('sample');
    await expect(vault.decrypt({ ciphertext, context: 'b' })).rejects.toThrow(VaultDecryptFailedError);
    expect((await vault.decrypt(gatewaySeal(keyA, 'sample-connector'))).plaintext).toBe('sample-connector');
    const moved = await vault.rewrap({ ciphertext, context: 'a' });
    expect((await vault.decrypt({ ciphertext: moved.ciphertext, context: 'a' })).plaintext).toBe('sample');
    const many = await vault.encryptMany([{ plaintext: 'one' }, { plaintext: 'two' }]);
    const items = many.items.map((item) => ({ ciphertext: 'ciphertext' in item ? item.ciphertext : '' }));
    const rewrapped = await vault.rewrapMany(items);
    expect([rewrapped.failed, rewrapped.items.length]).toEqual([0, 2]);
    const back = await vault.decryptMany([...items, { ciphertext }]);
    expect(back.failed).toBe(1);
    expect(back.items).toMatchObject([{ plaintext: 'one' }, { plaintext: 'two' }, { error: { type: 'decrypt_failed' } }]);
  });
});

describe('a refusal', () => {
  const start = () =>
    startWithClient({
      VAULT_GATEWAY_TOKENS: `gateway:${gatewayToken},limited@acme:sample-limited-token`,
      VAULT_LIMIT_DECRYPTS: '3',
    });

  it('is an error of its class, with the contract’s type, its status, and the id that is in the vault’s log', async () => {
    const { vault, database, origin } = await start();
    await database.insert('c3'.repeat(32), { id: 'foreign' });
    const requestId = 'sample-request-7';
    const cases: [() => Promise<unknown>, typeof VaultClientError, number, string][] = [
      [() => vault.decryptKey({ name: '' }, { requestId }), VaultValidationError, 400, 'validation_error'],
      [() => clientOf(origin, 'sample-unknown-token').listKeys({}, { requestId }), VaultAuthError, 401, 'auth_error'],
      [
        () => clientOf(origin, 'sample-limited-token').encrypt({ plaintext: 'a' }, { requestId }),
        VaultForbiddenError,
        403,
        'forbidden',
      ],
      [() => vault.decryptKey({ name: 'NONE' }, { requestId }), VaultNotFoundError, 404, 'not_found'],
      [
        () => vault.encrypt({ plaintext: 'a'.repeat(9_000_000) }, { requestId }),
        VaultPayloadTooLargeError,
        413,
        'payload_too_large',
      ],
      [() => vault.decryptKey({ name: 'foreign' }, { requestId }), VaultDecryptFailedError, 422, 'decrypt_failed'],
    ];
    for (const [call, Class, status, type] of cases) {
      const error = await call().catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(Class);
      expect(error).toBeInstanceOf(VaultClientError);
      expect(error).toMatchObject({ name: Class.name, status, type, requestId });
    }
  });

  it('for the rate says when to come again, and is not repeated before', async () => {
    const { vault, database } = await start();
    await database.insert(keyA, { id: 'row' });
    for (let call = 0; call < 3; call += 1) await vault.decryptKey({ name: 'row' });
    const error = await vault.decryptKey({ name: 'row' }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(VaultRateLimitedError);
    expect((error as VaultRateLimitedError).retryAfterSeconds).toBeGreaterThan(0);
  });
});

describe('the token', () => {
  const token = 'sample-token-that-shows-nowhere';
  it('is in no error and in nothing that shows the client', async () => {
    const unreachable = new VaultClient({ url: 'http://127.0.0.1:9', token, retries: 0, cache: { ttlMs: 1_000 } });
    const error = await unreachable.decryptKey({ name: 'K' }).catch((reason: unknown) => reason);
    const texts = [inspect(error, { depth: 10, showHidden: true }), JSON.stringify(error), (error as Error).stack ?? ''];
    texts.push(inspect(unreachable, { depth: 10, showHidden: true }), JSON.stringify(unreachable));
    for (const options of [
      { url: 'http://127.0.0.1:9', token: `${token}\n` },
      { url: `http://x:${token}@127.0.0.1:9`, token },
    ]) {
      expect(() => new VaultClient(options)).toThrow(TypeError);
      try {
        new VaultClient(options);
      } catch (problem) {
        texts.push(inspect(problem, { depth: 10, showHidden: true }));
      }
    }
    expect(texts.length).toBe(7);
    for (const text of texts) expect(text).not.toContain(token);
    await unreachable.close();
  });
});

it('a body that is no JSON is refused before anything is sent', async () => {
  const client = new VaultClient({ url: 'http://127.0.0.1:9', token: 'sample-token' });
  const plaintext = 1n as unknown as string;
  await expect(client.encrypt({ plaintext })).rejects.toThrow(TypeError);
});

it('options that cannot be meant are refused when the client is made', () => {
  const good = { url: 'http://127.0.0.1:9', token: 'sample-token' };
  const unset = { token: undefined as unknown as string };
  const bad = [{ url: 'vault' }, { url: 'ftp://vault' }, { url: 'http://vault/?a=b' }, { token: '' }, { token: 'a b' }, unset];
  const numbers = [{ timeoutMs: 0 }, { timeoutMs: Number.NaN }, { retries: -1 }, { retries: 0.5 }, { connections: 0 }];
  for (const options of [...bad, ...numbers]) expect(() => new VaultClient({ ...good, ...options })).toThrow(TypeError);
});
