/** The gateway's own table is brought to the vault's schema by adding alone, by many at once, from whatever state, and the gateway goes on working. */

import { describe, expect, it, onTestFinished } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { addMissingColumns, migrate } from '../../src/store/migrations.ts';
import type { GatewayDatabase } from '../support/gateway.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, temporaryDatabase } from '../support/vault.ts';

async function schemaOf(gateway: GatewayDatabase): Promise<unknown[]> {
  const { rows } = await gateway.client.execute(
    "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'libsql%' ORDER BY name",
  );
  const columns = await gateway.client.execute("SELECT name, type FROM pragma_table_info('api_keys') ORDER BY cid");
  return [...rows, ...columns.rows].map((row) => ({ ...row }));
}

async function migrated(url: string): Promise<void> {
  const database = new Database({ url });
  await migrate(database);
  await database.close();
}

describe('a migration', () => {
  it('leaves every row and column of the gateway’s table as it was', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id, tenantId: id === 'a' ? null : 'tenant-1' });
    const before = await gateway.rows();
    await migrated(url);
    const after = (await gateway.rows()).map(({ key_id, key_id_tag, last_used_at, ...row }) => ({
      row,
      added: [key_id, key_id_tag, last_used_at],
    }));
    expect(after.map(({ row }) => row)).toEqual(before);
    expect(after.map(({ added }) => added)).toEqual([
      [null, null, null],
      [null, null, null],
    ]);
  });

  it('run by eight at once, and again, gives the one schema', async () => {
    const { url, gateway } = await temporaryDatabase();
    await Promise.all(Array.from({ length: 8 }, () => migrated(url)));
    const schema = await schemaOf(gateway);
    await migrated(url);
    expect(await schemaOf(gateway)).toEqual(schema);
    const alone = await temporaryDatabase();
    await migrated(alone.url);
    expect(await schemaOf(alone.gateway)).toEqual(schema);
    expect(await gateway.rows('vault_migrations')).toHaveLength((await alone.gateway.rows('vault_migrations')).length);
  });

  it.each([1, 2, 3, 4, 5, 6, 7])('that ended after %i of its batches is finished by the next start', async (batches) => {
    const whole = await temporaryDatabase();
    await migrated(whole.url);
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const interrupted = new Database({ url });
    let left = batches;
    const writeIdempotent = interrupted.writeIdempotent.bind(interrupted);
    interrupted.writeIdempotent = async (statements) => {
      if (left === 0) throw new Error('The process has ended.');
      left -= 1;
      await writeIdempotent(statements);
    };
    await migrate(interrupted).catch(() => undefined);
    await interrupted.close();
    await migrated(url);
    expect(await schemaOf(gateway)).toEqual(await schemaOf(whole.gateway));
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('makes no empty table in place of one that is being made anew', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    await migrated(url);
    await gateway.run('ALTER TABLE api_keys RENAME TO __new_api_keys');
    await expect(migrated(url)).rejects.toThrow('The table api_keys, which the vault has served, is not there');
    await gateway.run('ALTER TABLE __new_api_keys RENAME TO api_keys');
    await migrated(url);
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('makes none on a database that was never served either, where the rows stand under another name', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    await gateway.run('ALTER TABLE api_keys RENAME TO __new_api_keys');
    await expect(migrated(url)).rejects.toThrow('The table api_keys is not there, and __new_api_keys holds rows of its shape');
    await gateway.run('ALTER TABLE __new_api_keys RENAME TO api_keys');
    await migrated(url);
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('makes none of one that is taken away while it is being prepared', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    await migrated(url);
    const database = new Database({ url });
    onTestFinished(() => database.close());
    const writeIdempotent = database.writeIdempotent.bind(database);
    database.writeIdempotent = async (statements) => {
      await gateway.run('ALTER TABLE api_keys RENAME TO __new_api_keys');
      await writeIdempotent(statements);
    };
    await expect(migrate(database)).rejects.toThrow();
    await gateway.run('ALTER TABLE __new_api_keys RENAME TO api_keys');
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('finds the table again in whichever case its name is spelt', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    await migrated(url);
    await gateway.run('ALTER TABLE api_keys RENAME TO renamed');
    await gateway.run('ALTER TABLE renamed RENAME TO API_KEYS');
    await migrated(url);
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('names a column that the gateway’s table lacks, and does not start', async () => {
    const { url, gateway } = await temporaryDatabase({ withTable: false });
    await gateway.run('CREATE TABLE api_keys (id text PRIMARY KEY, name text, provider text, encrypted_value text, iv text)');
    await expect(startVault(url)).rejects.toThrow('The table api_keys has no column auth_tag, tenant_id, created_at, updated_at');
  });
});

describe('the gateway’s own migration, which recreates the table while the vault serves', () => {
  it('is unseen by callers: the vault’s columns are put back at the first use', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a', name: 'K' });
    const { gateway } = await startVault(url);
    const uses: (() => Promise<{ status: number }>)[] = [
      () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K' }),
      () => gateway('GET', '/v1/api-keys'),
      () => gateway('POST', '/v1/api-keys', { name: 'N', provider: 'openai', value: 'sample' }),
      () => gateway('POST', '/v1/api-keys/decrypt-all', {}),
    ];
    for (const use of uses) {
      await database.run('ALTER TABLE api_keys RENAME TO old_keys');
      await database.createTable();
      await database.run(`INSERT INTO api_keys (id, name, provider, encrypted_value, iv, auth_tag, tenant_id, created_at, updated_at)
        SELECT id, name, provider, encrypted_value, iv, auth_tag, tenant_id, created_at, updated_at FROM old_keys`);
      await database.run('DROP TABLE old_keys');
      expect([200, 201]).toContain((await use()).status);
    }
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'N' })).status).toBe(200);
  });

  it('may be noticed by several processes at once', async () => {
    const { url } = await temporaryDatabase();
    await Promise.all(
      Array.from({ length: 6 }, async () => {
        const database = new Database({ url });
        await addMissingColumns(database);
        await database.close();
      }),
    );
  });
});

describe('today’s gateway', () => {
  it('inserts, replaces in place, reads and deletes on the migrated table, and leaves no stale key id behind', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway, admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    const stored = await gateway('POST', '/v1/api-keys', { name: 'STORED', provider: 'openai', value: 'sample-by-vault' });
    await database.insert(keyA, { id: 'inserted', value: 'sample-by-gateway' });
    expect(await database.open(keyA, 'inserted')).toBe('sample-by-gateway');
    await admin('POST', '/admin/rotate/execute');
    expect(await database.open(keyB, 'inserted')).toBe('sample-by-gateway');

    for (const id of ['inserted', stored.body.key.id]) await database.update(keyA, id, `sample-again-${id}`);
    const rows = await database.rows();
    expect(rows.every(({ key_id_tag, auth_tag }) => key_id_tag !== auth_tag)).toBe(true);
    for (const { id, name } of rows) {
      expect(await database.open(keyA, String(id))).toBe(`sample-again-${id}`);
      expect((await gateway('POST', '/v1/api-keys/decrypt', { name })).body.key.value).toBe(`sample-again-${id}`);
      expect((await gateway('GET', `/v1/api-keys/${id}`)).body.key.key_id).toBe(keyIdA);
    }
    const again = await admin('POST', '/admin/rotate/execute');
    expect(again.body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
    expect((await admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdB]: 2 });
    await database.run("DELETE FROM api_keys WHERE id = 'inserted'");
    expect((await gateway('GET', '/v1/api-keys')).body.keys).toHaveLength(1);
  });
});
