/** What a gateway may rely on when it stores, lists, opens and deletes provider keys. */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type GatewayRow, gatewayOpen, gatewayTableSql } from '../support/gateway.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, type TestVault, temporaryDatabase } from '../support/vault.ts';

interface LegacyRow extends GatewayRow {
  readonly master_key: 'hex' | 'passphrase';
  readonly plaintext: string;
}

const legacy = JSON.parse(readFileSync(new URL('../crypto/data/legacy-rows.json', import.meta.url), 'utf8')) as {
  readonly master_keys: { readonly hex: string; readonly passphrase: string };
  readonly rows: readonly LegacyRow[];
};

interface PageOfKeys {
  readonly keys: readonly { readonly id: string }[];
}

async function pagesOf(load: (cursor: string | undefined) => ReturnType<TestVault['gateway']>) {
  const pages = [];
  for (let cursor: string | undefined; ; ) {
    const { body } = await load(cursor);
    pages.push(body);
    if (body.next_cursor === null) return pages;
    cursor = body.next_cursor;
  }
}

function asQuery(cursor: string | undefined): string {
  return cursor === undefined ? '' : `&cursor=${cursor}`;
}

function idsOf({ keys }: PageOfKeys): string[] {
  return keys.map(({ id }) => id);
}

it('what is stored is what is read, also where the row that it replaces has a time ahead of the vault’s clock', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  const now = Math.floor(Date.now() / 1000);
  for (const [index, id] of ['newest', 'second'].entries()) {
    await database.insert(keyA, { id, name: 'K', value: 'sample-old', updatedAt: now + 500 - index });
  }
  const { gateway } = await startVault(url);
  const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-new' });
  expect(stored.body.key.id).toBe('newest');
  expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-new');
});

describe('rows as the gateway has written them', () => {
  it.each(['hex', 'passphrase'] as const)(
    'come back byte for byte under a %s master key, and are listed masked',
    async (kind) => {
      const { url, gateway: database } = await temporaryDatabase();
      const rows = legacy.rows.filter((row) => row.master_key === kind);
      await database.insertSealed(rows);
      const { gateway } = await startVault(url, { PROVARA_MASTER_KEY: legacy.master_keys[kind] });
      for (const { id, name, provider, tenant_id, plaintext } of rows) {
        const decrypted = await gateway('POST', '/v1/api-keys/decrypt', { tenant_id, name });
        expect(decrypted.status).toBe(200);
        expect(decrypted.body.key).toEqual({ id, tenant_id, name, provider, value: plaintext });
        const listed = await gateway('GET', `/v1/api-keys/${id}${tenant_id === null ? '' : `?tenant_id=${tenant_id}`}`);
        const characters = Array.from(plaintext);
        const shown = characters.slice(characters.length - Math.min(4, Math.floor(characters.length / 4)));
        expect(listed.body.key.masked_value).toBe(`••••••••${shown.join('')}`);
      }
    },
  );

  it('are still read by the gateway’s own code while the vault stores beside them', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'old-row', value: 'sample-value-old' });
    const { gateway } = await startVault(url);
    await gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample-value-new' });
    expect(await database.open(keyA, 'old-row')).toBe('sample-value-old');
  });

  it('are found again after the gateway has replaced a value in place under another key of the keyring', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url, { PROVARA_MASTER_KEY_OLD: keyB });
    const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value-1' });
    await database.update(keyB, stored.body.key.id, 'sample-value-2');
    const decrypted = await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
    expect(decrypted.body.key.value).toBe('sample-value-2');
    const listed = await gateway('GET', `/v1/api-keys/${stored.body.key.id}`);
    expect(listed.body.key.key_id).toBe(keyIdB);
  });

  it('lose the key id on record once the gateway has replaced the value under a key that nobody knows', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value-1' });
    await database.update('f'.repeat(64), stored.body.key.id, 'sample-value-2');
    const listed = await gateway('GET', `/v1/api-keys/${stored.body.key.id}`);
    expect(listed.body.key).toMatchObject({ key_id: null, masked_value: '••••(decrypt error)' });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(422);
  });

  it('are answered by a store as a get answers them then, whatever another program has made of their times', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const store = (provider: string) => gateway('POST', '/v1/api-keys', { name: 'K', provider, value: 'sample-value' });
    const inserted = (await store('openai')).body.key;
    const get = async () => (await gateway('GET', `/v1/api-keys/${inserted.id}`)).body.key;
    expect(await get()).toEqual(inserted);
    await database.run('UPDATE api_keys SET created_at = 1, updated_at = unixepoch() + 86400, last_used_at = 1750000000');
    const { body } = await store('anthropic');
    expect(body).toMatchObject({ updated: true, key: { provider: 'anthropic', created_at: '1970-01-01T00:00:01.000Z' } });
    expect(await get()).toEqual(body.key);
  });

  it('are listed also where another program has given them a time before every calendar', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'row' });
    const { gateway } = await startVault(url);
    for (const time of ['-9223372036854775808', '-62167219201']) {
      await database.run(`UPDATE api_keys SET created_at = ${time}`);
      expect((await gateway('GET', '/v1/api-keys')).body.keys[0].created_at).toBe('1970-01-01T00:00:00.000Z');
    }
  });

  it('stand for one key where several share a name: the newest by updated_at, created_at and insertion', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'first', name: 'K', updatedAt: 10 });
    await database.insert(keyA, { id: 'newest', name: 'K', updatedAt: 30 });
    await database.insert(keyA, { id: 'last', name: 'K', updatedAt: 20 });
    const { gateway } = await startVault(url);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.id).toBe('newest');
    const all = await gateway('POST', '/v1/api-keys/decrypt-all', {});
    expect(all.body.keys.map(({ id }: { id: string }) => id)).toEqual(['newest']);
    const replaced = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'xai', value: 'sample-replaced' });
    expect(replaced.body.key.id).toBe('newest');
    expect((await database.rows()).map(({ id }) => id)).toEqual(['first', 'newest', 'last']);
    expect((await gateway('GET', '/v1/api-keys')).body.keys).toHaveLength(3);
  });
});

describe('storing', () => {
  it('answers 201 for a new key and 200 for one that it replaces, keeping id and created_at', async () => {
    const { url } = await temporaryDatabase({ withTable: false });
    const { gateway } = await startVault(url);
    const first = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: '  sample-value-0001\n' });
    expect([first.status, first.body.updated]).toEqual([201, false]);
    expect(first.body.key).toMatchObject({
      tenant_id: null,
      name: 'K',
      provider: 'openai',
      masked_value: '••••••••0001',
      key_id: keyIdA,
    });
    const second = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'xai', value: 'sample-value-0002' });
    expect([second.status, second.body.updated]).toEqual([200, true]);
    expect(second.body.key).toMatchObject({ id: first.body.key.id, provider: 'xai', created_at: first.body.key.created_at });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-value-0002');
  });

  it('makes one row of many stores of one new name at once', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const stores = Array.from({ length: 20 }, (_, index) =>
      gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: `sample-value-${index}` }),
    );
    const statuses = (await Promise.all(stores)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 201)).toHaveLength(1);
    expect(statuses.filter((status) => status === 200)).toHaveLength(19);
    expect(await database.rows()).toHaveLength(1);
  });

  it('keeps a JSON object byte for byte', async () => {
    const { url } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const value = '{\n  "type": "service_account",\n  "name": "ключ \\u00e9",\n  "a": 1, "a": 1.0\n}\n';
    await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'vertex', value });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe(value);
  });

  it('writes format 2, which the gateway’s own code cannot open and which opens in no other row', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    await gateway('POST', '/v1/api-keys', { tenant_id: 'tenant-1', name: 'K', provider: 'openai', value: 'sample-value-1' });
    await gateway('POST', '/v1/api-keys', { tenant_id: 'tenant-2', name: 'K', provider: 'openai', value: 'sample-value-2' });
    const [row] = (await database.rows()) as unknown as GatewayRow[];
    expect(row?.iv).toMatch(/^[0-9a-f]{24}$/);
    expect(() => gatewayOpen(keyA, row as GatewayRow)).toThrow();
    await database.run(
      `UPDATE api_keys SET (encrypted_value, iv, auth_tag) =
        (SELECT encrypted_value, iv, auth_tag FROM api_keys WHERE tenant_id = 'tenant-1') WHERE tenant_id = 'tenant-2'`,
    );
    const moved = await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'tenant-2', name: 'K' });
    expect([moved.status, moved.body.error.type]).toEqual([422, 'decrypt_failed']);
  });

  it.each([
    ['an empty value', { value: '' }],
    ['white space alone', { value: ' \n\t ' }],
    ['a line break inside', { value: 'sample\nvalue' }],
    ['text outside ASCII', { value: 'ключ' }],
    ['a JSON array', { value: '["ü"]' }],
    ['more than 64 KiB', { value: 'x'.repeat(65_537) }],
    ['half a surrogate pair', { value: '{"a":"\ud800"}' }],
    ['an empty name', { name: '' }],
    ['a name over 255 bytes', { name: 'ü'.repeat(128) }],
    ['a control character in the name', { name: 'a\u0000b' }],
    ['a line break in the provider', { provider: 'open\nai' }],
    ['an empty tenant', { tenant_id: '' }],
    ['a number as name', { name: 1 }],
    ['null as value', { value: null }],
    ['an unknown field', { tenant: 'tenant-1' }],
  ])('refuses %s with 400 and writes nothing', async (_case, change) => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const { status, body } = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample', ...change });
    expect([status, body.error.type]).toEqual([400, 'validation_error']);
    expect(await database.rows()).toEqual([]);
  });

  it('accepts a name of exactly 255 bytes and a value of exactly 64 KiB', async () => {
    const { url } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const name = `${'ü'.repeat(127)}n`;
    const value = 'x'.repeat(65_536);
    expect((await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value })).status).toBe(201);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name })).body.key.value).toBe(value);
  });
});

describe('tenants', () => {
  it('see only their own rows, and never learn that another’s exist', async () => {
    const { url } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const stored = await gateway('POST', '/v1/api-keys', {
      tenant_id: 'tenant-1',
      name: 'K',
      provider: 'openai',
      value: 'sample',
    });
    const { id } = stored.body.key;
    const missing = await gateway('GET', '/v1/api-keys/no-such-id?tenant_id=tenant-2');
    for (const query of ['', '?tenant_id=tenant-2']) {
      const got = await gateway('GET', `/v1/api-keys/${id}${query}`);
      expect(got.status).toBe(404);
      expect(got.body.error.message).toBe(missing.body.error.message);
      expect((await gateway('DELETE', `/v1/api-keys/${id}${query}`)).status).toBe(404);
      expect((await gateway('GET', `/v1/api-keys${query}`)).body.keys).toEqual([]);
    }
    expect((await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'tenant-2', name: 'K' })).status).toBe(404);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: null, name: 'K' })).status).toBe(404);
    expect((await gateway('DELETE', `/v1/api-keys/${id}?tenant_id=tenant-1`)).body).toEqual({ deleted: true });
    expect((await gateway('DELETE', `/v1/api-keys/${id}?tenant_id=tenant-1`)).status).toBe(404);
  });

  it('of the empty name, as another program may have written, are not the null tenant', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'of-empty', name: 'K', tenantId: '' });
    const { gateway } = await startVault(url);
    expect((await gateway('GET', '/v1/api-keys/of-empty')).status).toBe(404);
    expect((await gateway('DELETE', '/v1/api-keys/of-empty')).status).toBe(404);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(404);
    expect((await gateway('GET', '/v1/api-keys')).body.keys).toEqual([]);
  });

  it('are listed with their counts, the null tenant included, page by page', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const [index, tenantId] of [null, null, 'a', 'b', 'b', 'c'].entries()) {
      await database.insert(keyA, { id: `row-${index}`, tenantId });
    }
    const { gateway } = await startVault(url);
    const pages = await pagesOf((cursor) => gateway('GET', `/v1/tenants?limit=1${asQuery(cursor)}`));
    expect(pages.map(({ tenants }) => tenants)).toEqual([
      [{ tenant_id: null, keys: 2 }],
      [{ tenant_id: 'a', keys: 1 }],
      [{ tenant_id: 'b', keys: 2 }],
      [{ tenant_id: 'c', keys: 1 }],
    ]);
  });
});

describe('listing', () => {
  it('pages through every row once, filters by provider, and shows a row that does not open as such', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (let index = 0; index < 7; index += 1) {
      await database.insert(index === 3 ? keyB : keyA, { id: `row-${index}`, provider: index % 2 === 0 ? 'even' : 'odd' });
    }
    const { gateway } = await startVault(url);
    const pages = await pagesOf((cursor) => gateway('GET', `/v1/api-keys?limit=2${asQuery(cursor)}`));
    expect(pages.map(idsOf)).toEqual([['row-0', 'row-1'], ['row-2', 'row-3'], ['row-4', 'row-5'], ['row-6']]);
    const odd = await gateway('GET', '/v1/api-keys?provider=odd');
    expect(idsOf(odd.body)).toEqual(['row-1', 'row-3', 'row-5']);
    expect(odd.body.keys[1].masked_value).toBe('••••(decrypt error)');
  });

  it('holds fewer of rows that are large, so that no other call waits long for it, and each of them once', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const ids = Array.from({ length: 40 }, (_, index) => `row-${String(index).padStart(2, '0')}`);
    // As only another program makes them: more than a page by themselves, at the beginning of one, within one and at the end.
    const huge = ['row-00', 'row-20', 'row-39'];
    for (const id of ids) await database.insert(keyA, { id, value: 'x'.repeat(huge.includes(id) ? 1_500_000 : 65_536) });
    const { gateway } = await startVault(url);
    const listed = await pagesOf((cursor) => gateway('GET', `/v1/api-keys?limit=1000${asQuery(cursor)}`));
    const opened = await pagesOf((cursor) => gateway('POST', '/v1/api-keys/decrypt-all', { cursor }));
    for (const pages of [listed, opened]) {
      expect(pages.flatMap(idsOf)).toEqual(ids);
      expect(pages.map(({ keys }) => keys.length)).toEqual([1, 16, 4, 16, 3]);
    }
  });

  it('holds rows without an id, large ones too', async () => {
    const { url, gateway: database } = await temporaryDatabase({ withTable: false });
    await database.run(gatewayTableSql.replace('id text PRIMARY KEY NOT NULL', 'id text PRIMARY KEY'));
    for (let index = 0; index < 18; index += 1) await database.insert(keyA, { id: `row-${index}`, value: 'x'.repeat(60_000) });
    await database.run('UPDATE api_keys SET id = NULL WHERE rowid <= 16');
    const { gateway } = await startVault(url);
    const pages = await pagesOf((cursor) => gateway('POST', '/v1/api-keys/decrypt-all', { cursor }));
    expect(pages.flatMap(({ keys }) => keys).map(({ name }) => name)).toEqual(
      Array.from({ length: 18 }, (_, index) => `row-${index}`),
    );
  });

  it.each(['NULL', "x'00ff'"])('replaces a row whose id is %s like any other, and on record', async (id) => {
    const { url, gateway: database } = await temporaryDatabase({ withTable: false });
    await database.run(gatewayTableSql.replace('id text PRIMARY KEY NOT NULL', 'id text PRIMARY KEY'));
    await database.insert(keyA, { id: 'K' });
    await database.run(`UPDATE api_keys SET id = ${id}`);
    const { gateway, admin } = await startVault(url);
    const stored = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-new' });
    expect([stored.status, stored.body.updated]).toEqual([200, true]);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-new');
    const { records } = (await admin('GET', '/admin/audit')).body;
    expect(records.filter(({ act }: { act: string }) => act === 'key.store')).toHaveLength(1);
    expect(await database.rows()).toHaveLength(1);
  });

  it('names the key that a row wants where the keyring lacks it', async () => {
    const { url } = await temporaryDatabase();
    const first = await startVault(url, { PROVARA_MASTER_KEY: keyB });
    await first.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value' });
    await first.close();
    const { gateway } = await startVault(url);
    const { keys } = (await gateway('GET', '/v1/api-keys')).body;
    expect(keys).toMatchObject([{ name: 'K', key_id: keyIdB, masked_value: '••••(decrypt error)' }]);
  });

  it.each(['limit=0', 'limit=1001', 'limit=x', 'cursor=nonsense', 'tenant_id=', 'tenant_id=a&tenant_id=b', 'unknown=1'])(
    'refuses the query %s',
    async (query) => {
      const { url } = await temporaryDatabase();
      const { gateway } = await startVault(url);
      expect((await gateway('GET', `/v1/api-keys?${query}`)).status).toBe(400);
    },
  );
});

describe('decrypt-all', () => {
  it('gives every value of a tenant, and one bad row does not hide the rest', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (let index = 0; index < 150; index += 1) {
      await database.insert(index === 40 ? keyB : keyA, { id: `row-${String(index).padStart(3, '0')}`, tenantId: 'tenant-1' });
    }
    const { gateway } = await startVault(url);
    const first = await gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'tenant-1' });
    expect(first.body.keys).toHaveLength(100);
    const second = await gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'tenant-1', cursor: first.body.next_cursor });
    expect([second.body.keys.length, second.body.next_cursor]).toEqual([50, null]);
    const all = [...first.body.keys, ...second.body.keys];
    expect(all.filter(({ value }) => value !== undefined)).toHaveLength(149);
    expect(all.find(({ id }) => id === 'row-040')).toEqual({
      id: 'row-040',
      name: 'row-040',
      provider: 'openai',
      error: { type: 'decrypt_failed', message: 'The ciphertext could not be decrypted.' },
    });
  });
});

describe('a decrypt', () => {
  it('is noted as the last use of the row, and changes nothing else of it', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'row', name: 'K' });
    const { gateway, close } = await startVault(url);
    const [before] = await database.rows();
    await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
    await close();
    const [after] = await database.rows();
    expect(after?.last_used_at).toBeGreaterThan(1_745_000_000);
    expect({ ...after, last_used_at: null }).toEqual(before);
  });
});

describe('rows to which another program has given ids of four thousand bytes', () => {
  it('are listed and opened to their end, a page at a time', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const ids = ['a', ...['1', '2', '3'].map((end) => 'ä'.repeat(2_000) + end), 'ö'];
    for (const [index, id] of ids.entries()) await database.insert(keyA, { id, name: `K${index}` });
    const { gateway } = await startVault(url);
    const pages = await pagesOf((cursor) => gateway('GET', `/v1/api-keys?limit=1${asQuery(cursor)}`));
    expect(pages.flatMap(idsOf)).toEqual(ids);
    const cursor = pages[2]?.next_cursor;
    expect(idsOf((await gateway('POST', '/v1/api-keys/decrypt-all', { cursor })).body)).toEqual(ids.slice(3));
  });
});
