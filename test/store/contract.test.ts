/** What everything above the store relies on, the same on a file and on a server. */

import { describe, expect, it } from 'vitest';
import { AuditChain } from '../../src/crypto/audit-chain.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { StorageUnavailableError } from '../../src/errors.ts';
import { ApiKeyStore } from '../../src/store/api-keys.ts';
import { Database } from '../../src/store/database.ts';
import { decodePage } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { GuardFailedError, guard } from '../../src/store/guards.ts';
import { MasterKeyStore } from '../../src/store/master-keys.ts';
import { migrate } from '../../src/store/migrations.ts';
import { engine, keyA, keyIdA, keyIdB, temporaryDatabase } from '../support/vault.ts';

async function open() {
  const { url, gateway } = await temporaryDatabase();
  const database = new Database({ url });
  await database.useWriteAheadLog();
  await migrate(database);
  return { url, gateway, database };
}

const insert = (id: string) => ({
  sql: `INSERT INTO api_keys (id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
        VALUES (?, 'N', 'P', '00', '00', '00', 1, 1)`,
  args: [id],
});
const sealed = (name: string, keyId: string) => ({
  ...{ tenantId: null, name, provider: 'openai', encryptedValue: '00', iv: '11', authTag: '22', keyId },
});

/** As no other in its chain and place. */
const record = () => new AuditChain().append(parseMasterKey(keyA), {});

describe('a write', () => {
  it('commits all of its statements and says how many rows each changed', async () => {
    const { database, gateway } = await open();
    const written = await database.write([
      insert('a'),
      insert('b'),
      { sql: "UPDATE api_keys SET name = 'M'" },
      { sql: "DELETE FROM api_keys WHERE id = 'x'" },
    ]);
    expect(written).toEqual([1, 1, 2, 0]);
    expect((await gateway.rows()).map(({ id, name }) => [id, name])).toEqual([
      ['a', 'M'],
      ['b', 'M'],
    ]);
  });

  it('commits none of its statements where one fails', async () => {
    const { database, gateway } = await open();
    await expect(database.write([insert('a'), insert('b'), insert('a')])).rejects.toThrow();
    expect(await gateway.rows()).toEqual([]);
  });

  it('commits none of its statements where a guard does not hold at its place, and names the guard', async () => {
    const { database, gateway } = await open();
    const empty = guard('is_empty', 'NOT EXISTS (SELECT 1 FROM api_keys)');
    await database.write([empty, insert('a')]);
    for (const batch of [
      [empty, insert('b')],
      [insert('b'), empty],
    ]) {
      const error = await database.write(batch).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(GuardFailedError);
      expect((error as GuardFailedError).guard).toBe('is_empty');
    }
    expect((await gateway.rows()).map(({ id }) => id)).toEqual(['a']);
    expect(await gateway.rows('vault_assertions')).toEqual([]);
  });

  it('of many at once, by several connections, is made by each exactly once', async () => {
    const { url, database, gateway } = await open();
    const connections = [database, new Database({ url }), new Database({ url })];
    const ids = Array.from({ length: 60 }, (_, index) => `row-${index}`);
    await Promise.all(ids.map((id, index) => connections[index % 3]?.write([insert(id)])));
    expect((await gateway.rows()).map(({ id }) => id).sort()).toEqual([...ids].sort());
    for (const connection of connections) connection.close();
  });

  it('that meets a missing table or column names it', async () => {
    const { database } = await open();
    await expect(database.write([{ sql: 'DELETE FROM no_such_table' }])).rejects.toThrow('no table no_such_table');
    await expect(database.read('SELECT no_such_column FROM api_keys')).rejects.toThrow('no column no_such_column');
  });
});

describe('a lock that another program holds', () => {
  it('is waited for without blocking, and the write is then made once', async () => {
    const { database, gateway } = await open();
    const holder = await gateway.client.transaction('write');
    await holder.execute({ sql: "UPDATE api_keys SET name = 'M'", args: [] });
    let turns = 0;
    const counting = setInterval(() => {
      turns += 1;
    }, 10);
    const write = database.write([insert('a')]);
    // Were it blocked, there would be none until the write is given up.
    await expect.poll(() => turns, { interval: 10 }).toBeGreaterThan(3);
    clearInterval(counting);
    await holder.commit();
    expect(await write).toEqual([1]);
    expect(await gateway.rows()).toHaveLength(1);
  });

  it.runIf(engine === 'file')('for good is reported as such, nothing is written then, and the next write is made', async () => {
    const { database, gateway } = await open();
    const holder = await gateway.client.transaction('write');
    await expect(database.write([insert('a')])).rejects.toThrow(StorageUnavailableError);
    await holder.rollback();
    await database.write([insert('b')]);
    expect((await gateway.rows()).map(({ id }) => id)).toEqual(['b']);
  });

  it.runIf(engine === 'server')(
    'for good is taken away by the server after five seconds, and the write is made once',
    async () => {
      const { database, gateway } = await open();
      const holder = await gateway.client.transaction('write');
      await holder.execute({ sql: "UPDATE api_keys SET name = 'M'", args: [] });
      await database.write([insert('a')]);
      holder.close();
      expect((await gateway.rows()).map(({ id }) => id)).toEqual(['a']);
    },
  );
});

describe('the store of provider keys', () => {
  it('writes nothing for a key that is not active', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    await new MasterKeyStore(database).adopt({ id: keyIdA, isPassphrase: false });
    expect(await store.put(sealed('K', keyIdB), 'id-1', 10, record())).toBeNull();
    expect(await gateway.rows()).toEqual([]);
    expect(await store.put(sealed('K', keyIdA), 'id-1', 10, record())).toBe('inserted');
    expect(await store.findByName(null, 'K')).toMatchObject({ id: 'id-1', createdAt: 10 });
    expect(await store.put(sealed('K', keyIdB), 'id-1', 20, record())).toBeNull();
    expect(await store.put(sealed('K', keyIdA), 'id-1', 20, record())).toBe('replaced');
    expect(await store.findByName(null, 'K')).toMatchObject({ id: 'id-1', createdAt: 10, updatedAt: 20, keyIdHint: keyIdA });
  });

  it('stores nothing under another id than its audit record says, and nothing whose record cannot be written', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    await new MasterKeyStore(database).adopt({ id: keyIdA, isPassphrase: false });
    const first = record();
    await store.put(sealed('K', keyIdA), 'id-1', 10, first);
    const before = await gateway.rows();
    const changed = { ...sealed('K', keyIdA), authTag: '33' };
    await expect(store.put(changed, 'id-2', 20, record())).rejects.toMatchObject({ guard: 'row_id' });
    await expect(store.put(changed, 'id-1', 20, first)).rejects.toThrow();
    await expect(store.delete(null, 'id-1', first)).rejects.toThrow();
    expect(await gateway.rows()).toEqual(before);
    expect((await gateway.rows('vault_audit')).map(({ sequence }) => sequence)).toEqual([1]);
  });

  it('tells all of several stores at once but the one whose audit record cannot be written that they are done', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    await new MasterKeyStore(database).adopt({ id: keyIdA, isPassphrase: false });
    const twice = record();
    await store.put(sealed('K', keyIdA), 'id-1', 10, twice);
    const stores = ['L', 'M', 'N'].map((name) =>
      store.put(sealed(name, keyIdA), `id-${name}`, 10, name === 'M' ? twice : record()),
    );
    expect((await Promise.allSettled(stores)).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect((await gateway.rows()).map(({ name }) => name).sort()).toEqual(['K', 'L', 'N']);
  });

  it('takes for a name the newest of the tenant by updated_at, created_at and insertion, alone or among all', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    const rows = [
      ['acme', 'K', 'a', 10, 1],
      ['acme', 'K', 'b', 10, 3],
      ['acme', 'K', 'c', 10, 2],
      ['acme', 'K', 'd', 9, 4],
      ['acme', 'L', 'f', 1, 1],
      ['acme', 'L', 'e', 1, 1],
      ['other', 'K', 'g', 99, 99],
    ] as const;
    for (const [tenantId, name, id, updatedAt, createdAt] of rows) {
      await gateway.insert(keyA, { id, name, tenantId, updatedAt });
      await gateway.run('UPDATE api_keys SET created_at = ? WHERE id = ?', [createdAt, id]);
    }
    const page = { limit: 10, after: null };
    expect((await store.listNewest('acme', page)).items.map(({ id }) => id)).toEqual(['b', 'e']);
    expect((await store.listNewest('other', page)).items.map(({ id }) => id)).toEqual(['g']);
    expect((await store.findByName('acme', 'K'))?.id).toBe('b');
    expect((await store.findByName('acme', 'L'))?.id).toBe('e');
  });

  it('lists the rows of one provider alone on every page', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    for (let index = 0; index < 6; index += 1) {
      await gateway.insert(keyA, { id: `row-${index}`, provider: index % 2 === 0 ? 'even' : 'odd' });
    }
    const first = await store.list(null, 'odd', { limit: 2, after: null });
    const second = await store.list(null, 'odd', { limit: 2, after: first.next });
    expect([first, second].map(({ items }) => items.map(({ id }) => id))).toEqual([['row-1', 'row-3'], ['row-5']]);
    expect(second.next).toBeNull();
  });

  it('deletes no row of another tenant, and puts no such delete on record', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    await gateway.insert(keyA, { id: 'a', tenantId: 'acme' });
    for (const tenantId of [null, 'other']) expect(await store.delete(tenantId, 'a', record())).toBe(false);
    expect([await gateway.rows(), await gateway.rows('vault_audit')]).toEqual([[expect.objectContaining({ id: 'a' })], []]);
    expect(await store.delete('acme', 'a', record())).toBe(true);
    expect([await gateway.rows(), await gateway.rows('vault_audit')]).toEqual([[], [expect.anything()]]);
  });

  it('never replaces the time of a last use by an older one', async () => {
    const { database, gateway } = await open();
    const store = new ApiKeyStore(database);
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    await store.noteUse(new Map([['a', 20]]));
    await store.noteUse(
      new Map([
        ['a', 10],
        ['b', 10],
      ]),
    );
    expect((await gateway.rows()).map(({ last_used_at }) => last_used_at)).toEqual([20, 10]);
  });

  it('tells a null tenant from an empty one', async () => {
    const { database, gateway } = await open();
    await gateway.insert(keyA, { id: 'null', name: 'K', tenantId: null });
    await gateway.insert(keyA, { id: 'empty', name: 'K', tenantId: '' });
    const store = new ApiKeyStore(database);
    expect((await store.findByName(null, 'K'))?.id).toBe('null');
    expect((await store.findByName('', 'K'))?.id).toBe('empty');
    expect(await store.tenants(10, null)).toEqual([
      { tenantId: null, keys: 1, position: null },
      { tenantId: '', keys: 1, position: '' },
    ]);
    expect(await store.tenants(10, { position: null })).toEqual([{ tenantId: '', keys: 1, position: '' }]);
    expect(await store.tenants(10, { position: '' })).toEqual([]);
  });
});

describe('the pages of a table', () => {
  it('hold every row once, in pages that stay small however large the rows are', async () => {
    const { database, gateway } = await open();
    for (let index = 0; index < 40; index += 1) await gateway.insert(keyA, { id: `row-${index}`, value: 'x'.repeat(65_536) });
    const pages = [];
    for await (const page of new EncryptedTables(database).pages('api_keys')) pages.push(decodePage(page));
    expect(pages.flat().map(({ id }) => id)).toEqual(Array.from({ length: 40 }, (_, index) => `row-${index}`));
    const characters = pages.map((page) => page.reduce((sum, row) => sum + (row.ciphertext?.encryptedValue.length ?? 0), 0));
    expect(Math.max(...characters)).toBeLessThan(2_000_000 + 2 * 65_536);
    expect(pages.length).toBeGreaterThan(2);
  });
});
