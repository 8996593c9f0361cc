/** What a libSQL server takes in one argument and sends in one answer is bounded: neither keeps a rotation or a reader from the end. */

import { describe, expect, it } from 'vitest';
import { Database } from '../../../src/store/database.ts';
import { decodePage } from '../../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../../src/store/encrypted-tables.ts';
import { migrate } from '../../../src/store/migrations.ts';
import { startFaultProxy } from '../../support/fault-proxy.ts';
import { startSqld } from '../../support/sqld.ts';
import { keyA, keyB, startVault, temporaryDatabase } from '../../support/vault.ts';

describe('rows that are more than an argument takes, by what they are bound to and in themselves', () => {
  it.each([
    ['in one commit', '10000'],
    ['in chunks', '0'],
  ])('are rotated %s', async (_mode, atomicRows) => {
    const { url, gateway: database } = await temporaryDatabase();
    const quotes = '"'.repeat(255);
    const rows = 499;
    const many = Array.from({ length: rows }, (_, index) => {
      const name = `${index}`.padEnd(255, '"');
      return { id: `row-${index}`, tenantId: quotes, name, provider: quotes, value: 'x'.repeat(2_003) };
    });
    await database.insertAll(keyA, many);
    await database.insert(keyA, { id: 'large', value: 'x'.repeat(1_300_000) });
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: atomicRows });
    const { body } = await admin('POST', '/admin/rotate/execute?wait=60');
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: rows + 1, rows_verified: rows + 1 });
    expect(await database.open(keyB, 'large')).toBe('x'.repeat(1_300_000));
  });
});

describe('rows that are more than the server sends at once, by what stands beside their ciphertext', () => {
  it('are read in smaller pages, each of them once', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'row-0' });
    const name = `printf('%.*c', 6000, 'n')`;
    await gateway.run(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1499)
      INSERT INTO api_keys (id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
      SELECT 'row-' || i, ${name} || i, provider, encrypted_value, iv, auth_tag, created_at, updated_at FROM n, api_keys WHERE id = 'row-0'`);
    const database = new Database({ url });
    const ids: string[] = [];
    for await (const page of new EncryptedTables(database).pages('api_keys')) ids.push(...decodePage(page).map(({ id }) => id));
    expect(ids).toEqual(Array.from({ length: 1_500 }, (_, index) => `row-${index}`));
    await database.close();
  });
});

describe('keys that are more than the server sends at once', () => {
  it('come in shorter pages, each of them once', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const ids = Array.from({ length: 120 }, (_, index) => `row-${String(index).padStart(3, '0')}`);
    const rows = ids.map((id) => ({ id, tenantId: 'acme', value: id.padEnd(65_536, 'x') }));
    for (let from = 0; from < rows.length; from += 10) await database.insertAll(keyA, rows.slice(from, from + 10));
    const { gateway } = await startVault(url);
    const decrypted: string[] = [];
    for (let cursor: string | undefined; ; ) {
      const { status, body } = await gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'acme', cursor });
      expect(status).toBe(200);
      for (const { id, value } of body.keys) if (value === id.padEnd(65_536, 'x')) decrypted.push(id);
      if (body.next_cursor === null) break;
      cursor = body.next_cursor;
    }
    expect(decrypted).toEqual(ids);
    expect((await gateway('GET', '/v1/api-keys?tenant_id=acme&limit=1000')).status).toBe(200);
  });
});

describe('keys of which some are more than the server sends at once, by whatever of them', () => {
  it.each([
    ['an IV', "iv = hex(zeroblob(600000)), encrypted_value = '00'"],
    ['control characters, which JSON writes in six', "encrypted_value = replace(hex(zeroblob(225000)), '0', char(1))"],
  ])('do not hide the others: %s', async (_what, columns) => {
    const { url, gateway: database } = await temporaryDatabase();
    for (let index = 0; index < 12; index += 1) await database.insert(keyA, { id: `row-${index}`, tenantId: 'acme' });
    await database.run(`UPDATE api_keys SET ${columns} WHERE id <> 'row-5'`);
    const { gateway } = await startVault(url);
    const opened: unknown[] = [];
    for (let cursor: string | undefined, pages = 1; pages <= 12; pages += 1) {
      const { status, body } = await gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'acme', cursor });
      expect(status).toBe(200);
      opened.push(...body.keys.map(({ value }: { value?: string }) => value));
      if (body.next_cursor === null) break;
      cursor = body.next_cursor;
    }
    expect([opened.length, opened.filter((value) => value !== undefined)]).toEqual([12, ['sample-value-of-row-5']]);
  });
});

describe('a write that is on its way for as long as its size explains', () => {
  it.each([
    ['text', (text: string) => text],
    ['bytes of text', (text: string) => Buffer.from(text)],
  ])('is waited for: %s', async (_kind, toArgument) => {
    const server = await startSqld();
    const proxy = await startFaultProxy(server.port);
    const database = new Database({ url: proxy.url });
    await migrate(database);
    await database.write([{ sql: 'CREATE TABLE large (value text)' }]);
    proxy.fault = () => 'slow by size';
    const value = '鍵'.repeat(1_500_000);
    const insert = { sql: 'INSERT INTO large VALUES (CAST(? AS text))', args: [toArgument(value)] };
    await database.write([insert, insert]);
    proxy.fault = () => 'none';
    expect(await database.read('SELECT count(*) AS rows FROM large WHERE value = ?', [value])).toEqual([{ rows: 2n }]);
    await database.close();
  });
});
