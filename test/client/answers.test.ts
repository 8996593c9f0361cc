/** An answer that is not one to the call it came to is an error, whose message shows nothing of it, and is not kept. */

import { describe, expect, it, onTestFinished } from 'vitest';
import { VaultClient, VaultUnexpectedAnswerError } from '../../src/client/index.ts';
import { startVaultProxy } from '../support/vault-proxy.ts';

const secret = 'sample-of-somebody-else';
const key = { id: 'row', tenant_id: 'acme', name: 'OPENAI', provider: 'openai', value: secret };

/** A client of something that gives one answer to every call. */
async function start(answer: unknown, status = 200) {
  const proxy = await startVaultProxy('http://127.0.0.1:9');
  const answerWith = (body: unknown): void => {
    proxy.fault = () => ({ status, body: JSON.stringify(body) });
  };
  answerWith(answer);
  const vault = new VaultClient({ url: proxy.url, token: 'sample-token', retries: 0, cache: { ttlMs: 60_000 } });
  onTestFinished(() => vault.close());
  return { vault, proxy, answerWith };
}

/** All of them, but no more than five. */
async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) if (collected.push(item) === 5) break;
  return collected;
}

async function expectRefused(call: Promise<unknown>): Promise<void> {
  const error = await call.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(VaultUnexpectedAnswerError);
  expect(error).toMatchObject({ type: 'unexpected_answer', status: 200, message: expect.not.stringContaining(secret) });
}

describe('a decrypted key', () => {
  it.each([
    ['another tenant’s', { ...key, tenant_id: 'victim' }],
    ['the null tenant’s', { ...key, tenant_id: null }],
    ['of no tenant', { ...key, tenant_id: undefined }],
    ['another', { ...key, name: 'OTHER' }],
    ['without a value', { ...key, value: undefined }],
    ['whose value is no text', { ...key, value: 5 }],
    ['null', null],
    ['a list', []],
    ['a text', 'OPENAI'],
  ])('that is %s is refused and not kept', async (_name, wrong) => {
    const { vault, proxy, answerWith } = await start({ key: wrong });
    const read = () => vault.decryptKey({ tenant_id: 'acme', name: 'OPENAI' });
    await expectRefused(read());
    answerWith({ key });
    expect((await read()).value).toBe(secret);
    expect(proxy.calls).toHaveLength(2);
    answerWith({ deleted: true });
    await vault.deleteKey('row', { tenant_id: 'acme' });
  });

  it('of a tenant is not taken for the null tenant’s, also where that is left out', async () => {
    const { vault, answerWith } = await start({ key });
    await expectRefused(vault.decryptKey({ name: 'OPENAI' }));
    await expectRefused(vault.decryptKey({ name: 'OPENAI', tenant_id: null }));
    answerWith({ key: { ...key, tenant_id: null } });
    expect((await vault.decryptKey({ name: 'OPENAI' })).value).toBe(secret);
  });
});

const tenant = { tenant_id: 'acme' };
const entry = { id: 'row', name: 'OPENAI', provider: 'openai', value: secret };
const sealed = { ciphertext: 'pv1.sample' };
const wrongs: [string, (vault: VaultClient) => Promise<unknown>, unknown[]][] = [
  [
    'a store',
    (vault) => vault.storeKey({ ...tenant, name: 'OPENAI', provider: 'openai', value: 'sample' }),
    [{ key: { ...key, tenant_id: 'victim' } }, { key: { ...key, name: 'OTHER' } }, { key: null }],
  ],
  ['a get', (vault) => vault.getKey('row', tenant), [{ key: { ...key, id: 'other' } }, { key: { ...key, tenant_id: null } }]],
  ['a delete', (vault) => vault.deleteKey('row', tenant), [{}, { deleted: false }, { key }]],
  [
    'a list',
    (vault) => vault.listKeys(tenant),
    [
      { next_cursor: null },
      { keys: [key] },
      { keys: {}, next_cursor: null },
      { keys: [{ ...key, tenant_id: 'victim' }], next_cursor: null },
    ],
  ],
  [
    'a decrypt of all',
    (vault) => vault.decryptAllKeys(tenant),
    [
      { keys: [null], next_cursor: null },
      { keys: [entry], next_cursor: 5 },
    ],
  ],
  [
    'a list of tenants',
    (vault) => vault.listTenants(),
    [
      { tenants: null, next_cursor: null },
      { keys: [], next_cursor: null },
    ],
  ],
  ['a status', (vault) => vault.isConfigured(), [{}, { configured: 'false' }]],
  ['an encrypt', (vault) => vault.encrypt({ plaintext: 'a' }), [{ plaintext: secret }, []]],
  ['a decrypt', (vault) => vault.decrypt(sealed), [sealed, { plaintext: null }]],
  ['a rewrap', (vault) => vault.rewrap(sealed), [{ plaintext: secret }]],
  [
    'many encrypts',
    (vault) => vault.encryptMany([{ plaintext: 'a' }]),
    [
      { items: [sealed, sealed], failed: 0 },
      { items: [null], failed: 0 },
    ],
  ],
  [
    'many decrypts',
    (vault) => vault.decryptMany([sealed, sealed]),
    [{ items: [{ plaintext: secret }], failed: 0 }, { plaintext: secret }],
  ],
  [
    'many rewraps',
    (vault) => vault.rewrapMany([sealed]),
    [
      { items: [], failed: 0 },
      { items: [[]], failed: 0 },
    ],
  ],
];

it.each(wrongs)('the answer to %s is refused where it cannot be one', async (_name, call, answers) => {
  const { vault, answerWith } = await start({});
  for (const answer of answers) {
    answerWith(answer);
    await expectRefused(call(vault));
  }
});

describe('a page that leads to itself', () => {
  const first = { ...entry, tenant_id: null, keys: 1 };
  it.each([
    ['eachKey', (vault: VaultClient) => collect(vault.eachKey())],
    ['eachDecryptedKey', (vault: VaultClient) => collect(vault.eachDecryptedKey())],
    ['eachTenant', (vault: VaultClient) => collect(vault.eachTenant())],
  ])('ends %s with an error, not never', async (_name, walk) => {
    const { vault, proxy } = await start({ keys: [first], tenants: [first], next_cursor: 'same' });
    await expectRefused(walk(vault));
    expect(proxy.calls).toHaveLength(2);
  });
});

describe('an answer that is far too long', () => {
  const value = 'a'.repeat(2_000_000);
  it('is refused and not kept, and its connection closed before the end', async () => {
    const { vault, proxy, answerWith } = await start({ key: { ...key, value: 'a'.repeat(50_000_000) } });
    const read = () => vault.decryptKey({ tenant_id: 'acme', name: 'OPENAI' });
    await expectRefused(read());
    answerWith({ key });
    expect((await read()).value).toBe(secret);
    expect(proxy.connections()).toBeGreaterThan(1);
  });

  it.each([
    ['a store', (vault: VaultClient) => vault.storeKey({ ...tenant, name: 'OPENAI', provider: 'openai', value: 'sample' })],
    ['a get', (vault: VaultClient) => vault.getKey('row', tenant)],
    ['a delete', (vault: VaultClient) => vault.deleteKey('row', tenant)],
    ['a status', (vault: VaultClient) => vault.isConfigured()],
  ])('is refused after %s', async (_name, call) => {
    const { vault } = await start({ key: { ...key, value }, deleted: true, configured: true });
    await expectRefused(call(vault));
  });

  it('is another for pages and texts than for one key', async () => {
    const { vault, answerWith } = await start({ keys: [{ ...entry, value }], next_cursor: null });
    expect((await vault.decryptAllKeys(tenant)).keys).toHaveLength(1);
    answerWith({ plaintext: value });
    expect((await vault.decrypt(sealed)).plaintext).toBe(value);
  });

  it('is also an error of a megabyte, of which the status is believed', async () => {
    const { vault } = await start({ error: { type: 'auth_error', message: value, request_id: 'r' } }, 401);
    await expect(vault.listKeys()).rejects.toMatchObject({ type: 'unexpected_answer', status: 401 });
  });
});

it('a message is cut where it is longer than any of the vault’s', async () => {
  const { vault } = await start({ error: { type: 'not_found', message: 'a'.repeat(500_000), request_id: 'r' } }, 404);
  const error = await vault.getKey('row').catch((reason: unknown) => reason);
  expect(error).toMatchObject({ type: 'not_found', message: 'a'.repeat(4_096) });
});
