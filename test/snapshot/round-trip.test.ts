/** A snapshot brings the tables back byte for byte; a merge leaves alone what is fine, and what is newer. */

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { buildServices } from '../../src/services.ts';
import { writeSnapshotTo } from '../../src/snapshot/file.ts';
import { connectorTableSql, gatewaySeal } from '../support/gateway.ts';
import { bytesOf, linesOf, sendSnapshot, signed, takeSnapshot } from '../support/snapshot.ts';
import {
  keyA,
  keyB,
  keyC,
  keyIdA,
  keyIdB,
  startVault,
  type TestVault,
  temporaryDatabase,
  temporaryFolder,
  tester,
} from '../support/vault.ts';

const connectors = 'context_connector_credentials';
const tables = ['api_keys', connectors];

async function start(settings: Record<string, string> = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.run(connectorTableSql);
  const folder = temporaryFolder();
  const vault = await startVault(url, {
    PROVARA_MASTER_KEY_NEW: keyB,
    VAULT_ENCRYPTED_TABLES: tables.join(','),
    VAULT_SNAPSHOT_DIR: folder,
    ...settings,
  });
  return { url, database, folder, vault };
}

type Started = Awaited<ReturnType<typeof start>>;

/** Rows of both formats and tables, of several tenants, with values that a careless copy would change. */
async function fill({ vault, database }: Started): Promise<void> {
  for (const name of ['K1', 'K2']) {
    await vault.gateway('POST', '/v1/api-keys', { tenant_id: 'acme', name, provider: 'openai', value: `sample-${name}` });
  }
  await database.insert(keyA, { id: 'legacy', tenantId: 'Zoë “Ω”' });
  await database.insert(keyA, { id: 'empty-tenant', tenantId: '' });
  await database.insert(keyA, { id: 'connector', provider: 'sample' }, connectors);
  await database.run("UPDATE api_keys SET created_at = 9007199254740993, updated_at = -9223372036854775808 WHERE id = 'legacy'");
  await database.run("UPDATE api_keys SET rowid = 9223372036854775807 WHERE id = 'legacy'");
  await database.run("UPDATE api_keys SET provider = CAST(x'610062ff0a22' AS text) WHERE id = 'legacy'");
  await database.run("UPDATE api_keys SET last_used_at = x'00ff', updated_at = 0.30000000000000004 WHERE id = 'empty-tenant'");
  await database.run("UPDATE api_keys SET rowid = 9007199254740995 WHERE id = 'empty-tenant'");
  await database.run(`UPDATE ${connectors} SET rowid = -7, last_used_at = 9e999, created_at = -9e999 WHERE id = 'connector'`);
}

async function allBytes({ database }: Started): Promise<unknown[][]> {
  return Promise.all(tables.map((table) => bytesOf(database, table)));
}

/** A row whose value was replaced after a rotation, a snapshot from before, and `alone`, which starts a vault with the first key only. */
async function replacedUnderNextKey() {
  const { url, vault } = await start();
  const store = (value: string) => vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value });
  const { id } = (await store('sample-older')).body.key;
  const snapshot = await takeSnapshot(vault);
  expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
  await store('sample-newer');
  const newer = async ({ gateway }: TestVault) => (await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value;
  const alone = () => startVault(url, { VAULT_ENCRYPTED_TABLES: tables.join(',') });
  return { id, newer, snapshot, vault, alone };
}

describe('a snapshot', () => {
  it('has a header with the keys that its rows need, a line a row, and a trailer', async () => {
    const started = await start();
    await fill(started);
    await started.database.insert(keyB, { id: 'under-the-next' });
    const lines = linesOf(await takeSnapshot(started.vault)).map((line) => JSON.parse(line));
    expect(lines[0]).toMatchObject({ format: 'provara-vault/snapshot/1', active_key_id: keyIdA, rows_unopened: 0 });
    expect(lines[0].key_ids).toEqual([keyIdA, keyIdB].sort());
    expect(lines[0].tables.map(({ table, rows }: { table: string; rows: number }) => [table, rows])).toEqual([
      ['api_keys', 5],
      [connectors, 1],
    ]);
    expect(lines).toHaveLength(8);
    expect(lines.at(-1)).toMatchObject({ rows: 6, key_id: keyIdA });
  });

  it('holds ciphertext only', async () => {
    const started = await start();
    await fill(started);
    const snapshot = await takeSnapshot(started.vault);
    for (const secret of ['sample-K1', 'sample-value-of', keyA, keyB, Buffer.from('sample-K1').toString('hex')]) {
      expect(snapshot).not.toContain(secret);
    }
  });

  it('counts and includes a row that no key opens', async () => {
    const { vault, database } = await start();
    await database.insert('d4'.repeat(32), { id: 'foreign' });
    const [header, row] = linesOf(await takeSnapshot(vault)).map((line) => JSON.parse(line));
    expect(header).toMatchObject({ rows_unopened: 1, key_ids: [] });
    expect(row.cells).toContain('foreign');
  });

  it('names a key that it needs also where the vault does not have that any more', async () => {
    const { vault, url } = await start();
    for (const name of ['LEFT', 'TAKEN']) await vault.gateway('POST', '/v1/api-keys', { name, provider: 'p', value: 'sample' });
    const { keys } = (await vault.gateway('GET', '/v1/api-keys')).body;
    const { id } = keys.find(({ name }: { name: string }) => name === 'LEFT');
    const rotated = await vault.admin('POST', '/admin/rotate/execute', { skip_ids: [id] });
    expect(rotated.body.rotation).toMatchObject({ state: 'completed', rows_skipped: 1 });
    await vault.close();
    const [header] = linesOf(await takeSnapshot(await startVault(url, { PROVARA_MASTER_KEY: keyB })));
    expect(JSON.parse(header ?? '')).toMatchObject({ key_ids: [keyIdA, keyIdB].sort(), rows_unopened: 1 });
  });

  it('is not made with a row that is larger than any that could be put back', async () => {
    const { vault, database } = await start();
    await database.insert(keyA, { id: 'large' });
    await database.run('UPDATE api_keys SET provider = hex(zeroblob(2100000))');
    await expect(takeSnapshot(vault)).rejects.toThrow('api_keys.id=large is larger than');
  });

  it('of many rows, in several pages, is whole', async () => {
    const { vault, database } = await start();
    const sealed = gatewaySeal(keyA, 'sample');
    await database.run(
      `INSERT INTO api_keys (id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
       WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2345)
       SELECT 'id-' || i, 'K' || i, 'openai', ?, ?, ?, 1, 1 FROM n`,
      [sealed.encrypted_value, sealed.iv, sealed.auth_tag],
    );
    const snapshot = await takeSnapshot(vault);
    expect(linesOf(snapshot)).toHaveLength(2_347);
    const before = await bytesOf(database, 'api_keys');
    await database.run('DELETE FROM api_keys');
    expect(await sendSnapshot(vault, snapshot)).toEqual({ status: 200, body: { restored: 2_345, kept: 0 } });
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
  });
});

describe('a restore', () => {
  it.each(['merge', 'replace'])('in the mode %s brings emptied tables back byte for byte', async (mode) => {
    const started = await start();
    await fill(started);
    const before = await allBytes(started);
    const snapshot = await takeSnapshot(started.vault);
    for (const table of tables) await started.database.run(`DELETE FROM ${table}`);
    expect(await sendSnapshot(started.vault, snapshot, mode)).toEqual({ status: 200, body: { restored: 5, kept: 0 } });
    expect(await allBytes(started)).toEqual(before);
    const { body } = await started.vault.gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K1' });
    expect(body.key.value).toBe('sample-K1');
    expect((await started.vault.gateway('GET', '/v1/api-keys?tenant_id=acme')).body.keys[0].key_id).toBe(keyIdA);
  });

  it.each(['merge', 'replace'])(
    'in the mode %s fills a table that the gateway has made anew without the vault’s columns',
    async (mode) => {
      const started = await start();
      await fill(started);
      const before = await allBytes(started);
      const snapshot = await takeSnapshot(started.vault);
      await started.database.run('DROP TABLE api_keys');
      await started.database.createTable();
      expect((await sendSnapshot(started.vault, snapshot, mode)).status).toBe(200);
      expect(await allBytes(started)).toEqual(before);
    },
  );

  it('leaves nothing of what it staged behind, and answers a repetition without writing', async () => {
    const started = await start();
    await fill(started);
    const snapshot = await takeSnapshot(started.vault);
    await started.database.run('DELETE FROM api_keys');
    await sendSnapshot(started.vault, snapshot);
    expect((await sendSnapshot(started.vault, snapshot)).body).toEqual({ restored: 0, kept: 5 });
    for (const table of ['vault_restores', 'vault_restore_rows', 'vault_restore_present']) {
      expect((await started.database.client.execute(`SELECT * FROM ${table}`)).rows).toEqual([]);
    }
  });

  it('by merge puts back missing and damaged rows, and leaves alone newer, foreign-to-it and good ones', async () => {
    const started = await start();
    const { database, vault } = started;
    await fill(started);
    const snapshot = await takeSnapshot(vault);
    const whole = await bytesOf(database, 'api_keys');
    await database.run("DELETE FROM api_keys WHERE name = 'K2'");
    await database.run("UPDATE api_keys SET auth_tag = 'no hex', last_used_at = 1 WHERE id = 'empty-tenant'");
    await database.update(keyB, 'legacy', 'sample-newer-value');
    await database.insert(keyA, { id: 'newer' });
    const changed = await bytesOf(database, 'api_keys');
    expect((await sendSnapshot(vault, snapshot, 'merge')).body).toEqual({ restored: 2, kept: 3 });
    const idOf = (row: unknown): unknown => (row as { id: string }).id;
    const after = new Map((await bytesOf(database, 'api_keys')).map((row) => [idOf(row), row]));
    const rowOf = (rows: unknown[], id: string): unknown =>
      rows.find((row) => idOf(row) === `text:${Buffer.from(id).toString('hex').toUpperCase()}`);
    const key = (id: string): string => `text:${Buffer.from(id).toString('hex').toUpperCase()}`;
    expect(after.size).toBe(5);
    expect(after.get(key('empty-tenant'))).toEqual(rowOf(whole, 'empty-tenant'));
    for (const id of ['legacy', 'newer']) expect(after.get(key(id))).toEqual(rowOf(changed, id));
    const { body } = await vault.gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K2' });
    expect(body.key.value).toBe('sample-K2');
  });

  it.each([
    ['merge', { restored: 1, kept: 1 }],
    ['replace', { restored: 2, kept: 0 }],
  ])('by %s takes the columns of another program’s table in whichever case that has them', async (mode, counts) => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run('CREATE TABLE others (Id text PRIMARY KEY, Encrypted_Value text, IV text, Auth_Tag text)');
    await database.insert(keyA, { id: 'a' });
    await database.run('INSERT INTO others SELECT id, encrypted_value, iv, auth_tag FROM api_keys');
    const settings = { VAULT_ENCRYPTED_TABLES: 'api_keys,others', VAULT_SNAPSHOT_DIR: temporaryFolder() };
    const vault = await startVault(url, settings);
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM others');
    expect((await sendSnapshot(vault, snapshot, mode)).body).toEqual(counts);
    expect((await vault.admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdA]: 2 });
  });

  it.each([
    ['no primary key', '', "'kind'"],
    ['one of several columns', ', PRIMARY KEY (kind, id)', "'kind'"],
    ['one that is null', ', PRIMARY KEY (kind)', 'NULL'],
  ])('by merge puts back the rows of a table with %s, each once', async (_which, primaryKey, kind) => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run(`CREATE TABLE others (kind text, id text, encrypted_value text, iv text, auth_tag text${primaryKey})`);
    for (const id of ['a', 'b', 'c']) await database.insert(keyA, { id });
    await database.run(`INSERT INTO others SELECT ${kind}, id, encrypted_value, iv, auth_tag FROM api_keys`);
    const vault = await startVault(url, { VAULT_ENCRYPTED_TABLES: 'api_keys,others' });
    const snapshot = await takeSnapshot(vault);
    const before = await bytesOf(database, 'others');
    await database.run("DELETE FROM others WHERE id = 'a'");
    await database.run("UPDATE others SET auth_tag = 'no hex' WHERE id = 'b'");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 2, kept: 4 });
    expect(await bytesOf(database, 'others')).toEqual(before);
  });

  it('by merge leaves alone a row that does not open where that of the snapshot does not either', async () => {
    const { vault, database } = await start();
    const unknownKey = 'd4'.repeat(32);
    await database.insert(unknownKey, { id: 'foreign' });
    const snapshot = await takeSnapshot(vault);
    await database.update(unknownKey, 'foreign', 'sample-newer');
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 1 });
    expect(await database.open(unknownKey, 'foreign')).toBe('sample-newer');
  });

  it('by merge puts back a row whose tenant has become bytes, since it opens no more', async () => {
    const { vault, database } = await start();
    expect((await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value' })).status).toBe(
      201,
    );
    const snapshot = await takeSnapshot(vault);
    await database.run("UPDATE api_keys SET tenant_id = x'0102'");
    expect(JSON.parse((await takeSnapshot(vault)).split('\n')[0] ?? '')).toMatchObject({ rows_unopened: 1 });
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 0 });
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-value');
  });

  it('by merge finds a row by its id where its row id is another row’s by now', async () => {
    const { database, vault } = await start();
    for (const id of ['one', 'two']) await database.insert(keyA, { id });
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM api_keys');
    await database.insert(keyA, { id: 'two', value: 'sample-newer' });
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 1 });
    expect(await database.open(keyA, 'one')).toBe('sample-value-of-one');
    expect(await database.open(keyA, 'two')).toBe('sample-newer');
  });

  it('goes into a table of any name, also of one that the statements use themselves', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const names = ['n', 'p', 'r', 's', 't'];
    for (const name of names) {
      await database.run(connectorTableSql.replace(connectors, name));
      await database.insert(keyA, { id: 'gone' }, name);
    }
    const vault = await startVault(url, { VAULT_ENCRYPTED_TABLES: `api_keys,${names}`, VAULT_SNAPSHOT_DIR: temporaryFolder() });
    const snapshot = await takeSnapshot(vault);
    for (const mode of ['merge', 'replace']) {
      for (const name of names) await database.run(`DELETE FROM ${name}`);
      expect((await sendSnapshot(vault, snapshot, mode)).body).toEqual({ restored: names.length, kept: 0 });
      for (const name of names) expect(await database.rows(name)).toHaveLength(1);
    }
  });

  it('by merge puts no value in the place of a newer one that was stored after a row of that name had been deleted', async () => {
    const { database, vault } = await start();
    const { gateway } = vault;
    const decrypted = async (name: string) => (await gateway('POST', '/v1/api-keys/decrypt', { name })).body.key.value;
    const store = async (name: string, value: string) =>
      (await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value })).body.key.id as string;
    const ids = await Promise.all(['K', 'L', 'M', 'N'].map((name) => store(name, 'sample-old')));
    // By a clock that was ahead, and long before.
    await database.run("UPDATE api_keys SET updated_at = updated_at + 5 WHERE name = 'L'");
    await database.run("UPDATE api_keys SET updated_at = updated_at - 5 WHERE name = 'M'");
    const snapshot = await takeSnapshot(vault);
    for (const id of ids) await gateway('DELETE', `/v1/api-keys/${id}`);
    for (const name of ['K', 'L', 'M']) await store(name, 'sample-new');
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 3 });
    const values = await Promise.all(['K', 'L', 'M', 'N'].map(decrypted));
    expect(values).toEqual(['sample-new', 'sample-new', 'sample-new', 'sample-old']);
    // Nor does one wait behind the newer, to come back once that is deleted.
    expect((await gateway('GET', '/v1/api-keys')).body.keys).toHaveLength(4);
  });

  it('by merge puts back each of several rows of one name, and the one that counted counts again', async () => {
    const { database, vault } = await start();
    const names = { name: 'K', updatedAt: 1_745_000_000 };
    for (const id of ['older', 'newer', 'newest']) await database.insert(keyA, { ...names, id });
    await database.run("UPDATE api_keys SET updated_at = updated_at - 1 WHERE id = 'older'");
    const snapshot = await takeSnapshot(vault);
    const counting = async () => (await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.id;
    for (const gone of [['older'], ['newer'], ['newest'], ['older', 'newer'], ['newer', 'newest']]) {
      for (const id of gone) await database.run('DELETE FROM api_keys WHERE id = ?', [id]);
      expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: gone.length, kept: 3 - gone.length });
      expect(await counting()).toBe('newest');
    }
    // Its row id is another row's by now, and under a greater one it would count.
    await database.run("UPDATE api_keys SET id = 'other', name = 'other' WHERE id = 'newer'");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 3 });
    expect(await counting()).toBe('newest');
  });

  it('by merge is refused where the active key is not in the keyring: every row would look as if it were damaged', async () => {
    const { newer, snapshot, vault, alone } = await replacedUnderNextKey();
    const lacking = await alone();
    const { status, body } = await sendSnapshot(lacking, snapshot);
    expect([status, body.error.type]).toEqual([503, 'configuration_error']);
    expect(body.error.message).toContain(`The master key ${keyIdB} is not in the keyring.`);
    expect(await newer(vault)).toBe('sample-newer');
  });

  it('by merge leaves alone a row that names a key which is not in the keyring', async () => {
    const { id, newer, snapshot, vault, alone } = await replacedUnderNextKey();
    const back = { old_key_id: keyIdB, new_key_id: keyIdA, skip_ids: [id] };
    expect((await vault.admin('POST', '/admin/rotate/execute', back)).status).toBe(200);
    expect((await sendSnapshot(await alone(), snapshot)).body).toEqual({ restored: 0, kept: 1 });
    expect(await newer(vault)).toBe('sample-newer');
  });

  it('by merge takes the place of no row that a key which is not in the keyring may open', async () => {
    const { url, vault, database } = await start();
    for (const id of ['edited', 'damaged', 'spoilt']) await database.insert(keyA, { id });
    for (const id of ['edited', 'spoilt', 'foreign', 'newer'])
      await database.insert(keyA, { id, provider: 'sample' }, connectors);
    await vault.admin('POST', '/admin/rotate/execute');
    const store = (value: string) => vault.gateway('POST', '/v1/api-keys', { name: 'stored', provider: 'openai', value });
    await store('sample-stored');
    const snapshot = await takeSnapshot(vault);
    await store('sample-stored-anew');
    await vault.close();
    // It still names its key, which is here.
    await database.run("UPDATE api_keys SET encrypted_value = 'c0ffee' WHERE name = 'stored'");
    // A program that has not been given the next key.
    await database.update(keyA, 'edited', 'sample-newer');
    await database.update(keyA, 'edited', 'sample-newer', connectors);
    await database.run("UPDATE api_keys SET auth_tag = 'no hex' WHERE id = 'damaged'");
    // Of one sealing still, by the IV or by the tag.
    await database.run(
      "UPDATE api_keys SET encrypted_value = 'c0ffee', auth_tag = lower(hex(randomblob(16))) WHERE id = 'spoilt'",
    );
    await database.run(
      `UPDATE ${connectors} SET encrypted_value = 'c0ffee', iv = lower(hex(randomblob(16))) WHERE id = 'spoilt'`,
    );
    // Of a key that nobody has told the vault of: one that was changed since, and one that was not.
    for (const id of ['foreign', 'newer']) await database.update(keyC, id, 'sample-of-nobody', connectors);
    await database.run(`UPDATE ${connectors} SET updated_at = 1745000000 WHERE id = 'foreign'`);
    const settings = { PROVARA_MASTER_KEY: keyB, VAULT_ENCRYPTED_TABLES: tables.join(',') };
    expect((await sendSnapshot(await startVault(url, settings), snapshot)).body).toEqual({ restored: 4, kept: 4 });
    for (const id of ['damaged', 'spoilt']) expect(await database.open(keyB, id)).toBe(`sample-value-of-${id}`);
    expect(await database.open(keyB, 'spoilt', connectors)).toBe('sample-value-of-spoilt');
    for (const id of ['foreign', 'newer']) expect(await database.open(keyC, id, connectors)).toBe('sample-of-nobody');
    const whole = await startVault(url, { ...settings, PROVARA_MASTER_KEY_OLD: keyA });
    const { key } = (await whole.gateway('POST', '/v1/api-keys/decrypt', { name: 'stored' })).body;
    expect(key.value).toBe('sample-stored');
    expect((await sendSnapshot(whole, snapshot)).body).toEqual({ restored: 1, kept: 7 });
    expect(await database.open(keyC, 'newer', connectors)).toBe('sample-of-nobody');
    expect(await database.open(keyB, 'foreign', connectors)).toBe('sample-value-of-foreign');
    for (const table of tables) expect(await database.open(keyA, 'edited', table)).toBe('sample-newer');
  });

  it.each([
    ['a number that is no integer', 'real', '1745000000.25', '1785000000.5'],
    ['a text', 'text', "'2025-01-01T00:00:00Z'", "'2025-06-01T00:00:00Z'"],
    ['nothing', 'integer', 'NULL', 'NULL'],
  ])('by merge leaves what may be newer, where %s says when a row was changed', async (_what, type, before, after) => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run(
      `CREATE TABLE others (id text, encrypted_value text, iv text, auth_tag text, updated_at ${type}, PRIMARY KEY (id))`,
    );
    const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, 'sample');
    await database.run(`INSERT INTO others VALUES ('a', ?, ?, ?, ${before})`, [encrypted_value, iv, auth_tag]);
    const vault = await startVault(url, { VAULT_ENCRYPTED_TABLES: 'api_keys,others' });
    const snapshot = await takeSnapshot(vault);
    const newer = gatewaySeal(keyC, 'sample-newer');
    const columns = [newer.encrypted_value, newer.iv, newer.auth_tag];
    await database.run(`UPDATE others SET encrypted_value = ?, iv = ?, auth_tag = ?, updated_at = ${after}`, columns);
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 1 });
    expect(await database.open(keyC, 'a', 'others')).toBe('sample-newer');
  });

  it('by merge into a table of which no row opened has the vault serve it', async () => {
    const source = await temporaryDatabase();
    await source.gateway.insert(keyA, { id: 'a' });
    const snapshot = await takeSnapshot(await startVault(source.url));
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a' });
    await database.run("UPDATE api_keys SET iv = ''");
    const vault = await startVault(url);
    expect((await vault.gateway('GET', '/ready')).status).toBe(503);
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 0 });
    expect((await vault.gateway('GET', '/ready')).status).toBe(200);
    const { status } = await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value' });
    expect(status).toBe(201);
  });

  it('by merge leaves a row that a rotation has skipped, and so left under a key which is gone since', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['skipped', 'rotated']) await database.insert(keyC, { id });
    const first = await startVault(url, { PROVARA_MASTER_KEY: keyC });
    await first.close();
    await database.run('DELETE FROM vault_active_key');
    await database.run('DELETE FROM vault_master_keys');
    await database.run(`INSERT INTO vault_master_keys (key_id, is_passphrase, first_seen_at) VALUES ('${keyIdB}', 0, 1)`);
    await database.run(`INSERT INTO vault_active_key VALUES (1, '${keyIdB}')`);
    const command = { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_OLD: keyC };
    const services = buildServices(readCliConfig({ DATABASE_URL: url, ...command }), createSilentLogger());
    const request = { oldKeyId: parseMasterKey(keyC).id, newKeyId: keyIdB, skipIds: ['skipped'] };
    expect(await (await services.rotator.start(request)).done).toMatchObject({ state: 'completed', rowsRotated: 1 });
    await services.close();
    const vault = await startVault(url, { PROVARA_MASTER_KEY: keyB });
    const snapshot = await takeSnapshot(vault);
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 2 });
    expect((await database.rows('vault_master_keys')).map(({ key_id }) => key_id)).toContain(parseMasterKey(keyC).id);
  });

  it('by merge takes the place of no row that could be under another key, of a table that the vault has never served', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['a', 'damaged']) await database.insert(keyA, { id });
    const snapshot = await takeSnapshot(await startVault(url));
    const { url: unservedUrl, gateway: unserved } = await temporaryDatabase();
    for (const id of ['a', 'damaged']) await unserved.insert(keyB, { id, value: 'sample-newer' });
    await unserved.run("UPDATE api_keys SET iv = '' WHERE id = 'damaged'");
    const services = buildServices(readCliConfig({ DATABASE_URL: unservedUrl, PROVARA_MASTER_KEY: keyA }), createSilentLogger());
    await services.migrate();
    const merge = () =>
      services.snapshots.restore(tester, Readable.from([Buffer.from(snapshot)]), 'merge', Number.POSITIVE_INFINITY);
    expect(await merge()).toEqual({ restored: 1, kept: 1, left: 1, before: null });
    expect(await merge()).toEqual({ restored: 0, kept: 2, left: 1, before: null });
    expect(await unserved.rows('vault_active_key')).toEqual([]);
    await services.close();
    expect(await unserved.open(keyB, 'a')).toBe('sample-newer');
  });

  it('by merge is refused beside a live replica that lacks a key of the rows which it would put back', async () => {
    const { url, vault, database } = await start();
    await database.insert(keyA, { id: 'a' });
    const snapshot = await takeSnapshot(vault);
    await vault.admin('POST', '/admin/rotate/execute');
    const replica = await startVault(url, { PROVARA_MASTER_KEY: keyB, VAULT_ENCRYPTED_TABLES: tables.join(',') });
    // Nothing is put back, so that nobody needs the first key.
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 1 });
    await database.run('DELETE FROM api_keys');
    const { status, body } = await sendSnapshot(vault, snapshot);
    expect([status, body.error?.type]).toEqual([409, 'replica_missing_key']);
    expect(await database.rows()).toEqual([]);
    await replica.close();
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 0 });
  });

  it.each(['merge', 'replace'])('by %s into a new database puts the keys of its rows on record', async (mode) => {
    const { vault, database } = await start();
    await database.insert(keyA, { id: 'a' });
    await database.insert(keyB, { id: 'b' });
    const snapshot = await takeSnapshot(vault);
    const target = await start({ PROVARA_MASTER_KEY_OLD: keyC });
    await target.database.run('DELETE FROM vault_master_keys WHERE key_id = ?', [keyIdB]);
    expect((await sendSnapshot(target.vault, snapshot, mode)).body).toEqual({ restored: 2, kept: 0 });
    const known = await target.database.rows('vault_master_keys');
    expect(known.map(({ key_id }) => key_id)).toEqual(expect.arrayContaining([keyIdA, keyIdB]));
  });

  it('by replacement takes away what the snapshot has not, and keeps the state before in a file of its owner', async () => {
    const started = await start();
    const { database, vault, folder } = started;
    await fill(started);
    const before = await allBytes(started);
    const snapshot = await takeSnapshot(vault);
    await database.insert(keyA, { id: 'newer' });
    await database.update(keyA, 'legacy', 'sample-newer-value');
    await database.run(`UPDATE ${connectors} SET rowid = 12`);
    const changed = await allBytes(started);
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 5, kept: 0 });
    // A row that stays keeps the row id that it has by now.
    await database.run(`UPDATE ${connectors} SET rowid = -7`);
    expect(await allBytes(started)).toEqual(before);
    await database.run(`UPDATE ${connectors} SET rowid = 12`);
    const [name = '', ...others] = readdirSync(folder);
    expect([name, others]).toEqual([expect.stringMatching(/^snapshot-\d{8}T\d{6}Z-[0-9a-f]{8}\.ndjson$/), []]);
    expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    expect((await sendSnapshot(vault, readFileSync(join(folder, name)), 'replace')).status).toBe(200);
    expect(await allBytes(started)).toEqual(changed);
  });

  it.each(['merge', 'replace'])('in the mode %s knows a table that the setting spells in upper case now', async (mode) => {
    const started = await start();
    await fill(started);
    const before = await allBytes(started);
    const snapshot = await takeSnapshot(started.vault);
    await started.database.run(`DELETE FROM ${connectors}`);
    if (mode === 'replace') await started.database.insert(keyA, { id: 'newer', provider: 'sample' }, connectors);
    const settings = { VAULT_ENCRYPTED_TABLES: tables.join(',').toUpperCase(), VAULT_SNAPSHOT_DIR: temporaryFolder() };
    const respelt = await startVault(started.url, { PROVARA_MASTER_KEY_NEW: keyB, ...settings });
    expect((await sendSnapshot(respelt, snapshot, mode)).status).toBe(200);
    expect(await allBytes(started)).toEqual(before);
  });

  it('by replacement needs VAULT_SNAPSHOT_DIR', async () => {
    const started = await start({ VAULT_SNAPSHOT_DIR: '' });
    await fill(started);
    const snapshot = await takeSnapshot(started.vault);
    const before = await allBytes(started);
    const { status, body } = await sendSnapshot(started.vault, snapshot, 'replace');
    expect([status, body.error.type]).toEqual([400, 'validation_error']);
    expect(body.error.message).toContain('VAULT_SNAPSHOT_DIR');
    expect(await allBytes(started)).toEqual(before);
  });

  it('by replacement brings the active key back that was active before a rotation', async () => {
    const started = await start();
    const { vault, database } = started;
    await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample' });
    for (const table of tables) await database.insert(keyA, { id: 'legacy' }, table);
    const before = await allBytes(started);
    const snapshot = await takeSnapshot(vault);
    expect((await vault.admin('POST', '/admin/rotate/execute')).body.rotation.state).toBe('completed');
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdB);
    expect((await sendSnapshot(vault, snapshot, 'replace')).status).toBe(200);
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
    expect(await allBytes(started)).toEqual(before);
    const stored = await vault.gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample' });
    expect(stored.body.key.key_id).toBe(keyIdA);
  });
});

describe('writeSnapshotFile', () => {
  it('answers the path and the SHA-256 of a file that a restore takes', async () => {
    const started = await start();
    await fill(started);
    const { path, sha256 } = await started.vault.services.snapshots.writeSnapshotFile(tester, started.folder);
    const bytes = readFileSync(path);
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256);
    expect((await sendSnapshot(started.vault, bytes)).body).toEqual({ restored: 0, kept: 5 });
  });

  it('has the bytes on disk before they have their name, and the name before it answers', async () => {
    const { vault, folder } = await start();
    const any = await open(folder, 'r');
    await any.close();
    const synced: unknown[] = [];
    const sync = vi.spyOn(Object.getPrototypeOf(any) as FileHandle, 'sync');
    onTestFinished(() => sync.mockRestore());
    sync.mockImplementation(async function (this: FileHandle) {
      synced.push([(await this.stat()).isFile() ? 'bytes' : 'name', readdirSync(folder)]);
    });
    const { path } = await vault.services.snapshots.writeSnapshotFile(tester, folder);
    expect(synced).toEqual([
      ['bytes', [expect.stringMatching(/\.partial$/)]],
      ['name', [basename(path)]],
    ]);
  });

  it('leaves nothing behind where it cannot be written whole, and lets go of what it was to hold', async () => {
    const { vault, folder } = await start();
    const taken = await vault.services.snapshots.take(tester);
    const close = vi.fn(taken.close);
    const chunks = async function* (): AsyncGenerator<Buffer> {
      yield* taken.chunks();
      throw new Error('It breaks off on purpose.');
    };
    await expect(writeSnapshotTo(join(folder, 'broken'), { ...taken, chunks, close })).rejects.toThrow('on purpose');
    expect([readdirSync(folder), close.mock.calls.length]).toEqual([[], 1]);
  });
});

describe('a row that was written anew behind the reader of a snapshot', () => {
  it.each(['merge', 'replace'])('is in it twice, and comes back as it was the second time: %s', async (mode) => {
    const { database, vault } = await start();
    for (const id of ['a', 'b', 'c']) await database.insert(keyA, { id, name: `name-${id}` }, connectors);
    const [header = '', ...rows] = linesOf(await takeSnapshot(vault)).slice(0, -1);
    const twice = signed([header, ...rows.map((line) => line.replace('"c"', '"a"'))], keyA);
    await database.run(`DELETE FROM ${connectors}`);
    expect((await sendSnapshot(vault, twice, mode)).body).toEqual({ restored: 2, kept: 1 });
    const { rows: present } = await database.client.execute(`SELECT id, name FROM ${connectors} ORDER BY id`);
    expect(present.map(({ id, name }) => [id, name])).toEqual([
      ['a', 'name-c'],
      ['b', 'name-b'],
    ]);
  });
});
