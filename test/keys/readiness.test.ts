/** Which key a database's rows are under is found out by opening them, and a vault with the wrong key takes no traffic. */

import NativeDatabase from 'libsql';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { EncryptedTables } from '../../src/store/encrypted-tables.ts';
import { connectorTableSql } from '../support/gateway.ts';
import {
  caller,
  engine,
  keyA,
  keyB,
  keyC,
  keyIdA,
  keyIdB,
  keyIdC,
  startVault,
  type TestVault,
  temporaryDatabase,
} from '../support/vault.ts';

const connectors = 'context_connector_credentials';

const ready = (vault: TestVault) => caller(vault.origin, null)('GET', '/ready');

describe('the active key of a table that was never seen', () => {
  it('is PROVARA_MASTER_KEY where there is no row', async () => {
    const { url } = await temporaryDatabase({ withTable: false });
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    expect((await vault.admin('GET', '/admin/master-keys')).body).toMatchObject({
      active_key_id: keyIdA,
      keys: [
        { key_id: keyIdA, source: 'PROVARA_MASTER_KEY', state: 'active', rows: 0, safe_to_retire: false },
        { key_id: keyIdB, source: 'PROVARA_MASTER_KEY_NEW', state: 'staged', rows: 0 },
      ],
    });
  });

  it('is PROVARA_MASTER_KEY where it opens one row, though another key opens more', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['b1', 'b2', 'b3']) await database.insert(keyB, { id });
    await database.insert(keyA, { id: 'a1' });
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
  });

  it('is the key that opens most rows where PROVARA_MASTER_KEY opens none', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['b1', 'b2']) await database.insert(keyB, { id });
    await database.insert(keyC, { id: 'c1' });
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyC, PROVARA_MASTER_KEY_OLD: keyB });
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdB);
  });

  it('is looked for in every covered table', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run(connectorTableSql);
    await database.insert(keyC, { id: 'c1' });
    await database.insert(keyB, { id: 'b1' }, connectors);
    const settings = { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}` };
    const vault = await startVault(url, settings);
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdB);
  });

  it('is not guessed where no key opens any: not ready, stores and encrypts get 503', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyC, { id: 'c1', name: 'K' });
    const vault = await startVault(url);
    const answer = await ready(vault);
    expect([answer.status, answer.body.error.type]).toEqual([503, 'configuration_error']);
    expect(answer.body.error.message).toContain(keyIdA);
    const stored = await vault.gateway('POST', '/v1/api-keys', { name: 'N', provider: 'openai', value: 'sample' });
    expect([stored.status, stored.body.error.type]).toEqual([503, 'configuration_error']);
    expect((await vault.gateway('POST', '/v1/encrypt', { plaintext: 'sample' })).status).toBe(503);
    expect((await vault.gateway('GET', '/v1/api-keys/status')).body).toEqual({ configured: false });
    expect(await database.rows()).toHaveLength(1);
  });

  it('must be 64 hex characters where there is no row', async () => {
    const { url } = await temporaryDatabase();
    await expect(startVault(url, { PROVARA_MASTER_KEY: 'a sample passphrase' })).rejects.toThrow(
      /PROVARA_MASTER_KEY must be 64 hex/,
    );
  });
});

describe('/ready', () => {
  it('names the key that the database wants and those that the keyring has', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a1', name: 'K' });
    await (await startVault(url)).close();
    const vault = await startVault(url, { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_NEW: keyC });
    const { status, body } = await ready(vault);
    expect(status).toBe(503);
    for (const keyId of [keyIdA, keyIdB, keyIdC]) expect(body.error.message).toContain(keyId);
    const decrypted = await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
    expect([decrypted.status, decrypted.body.error.type]).toEqual([503, 'configuration_error']);
  });

  it('goes on serving what the keyring opens while the active key is missing', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await (await startVault(url)).close();
    await database.insert(keyB, { id: 'b1', name: 'K', value: 'sample-value' });
    const vault = await startVault(url, { PROVARA_MASTER_KEY: keyB });
    expect((await ready(vault)).status).toBe(503);
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-value');
    expect((await vault.gateway('POST', '/v1/api-keys', { name: 'N', provider: 'p', value: 'sample' })).status).toBe(503);
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.error.type, body.error.message]).toEqual([
      503,
      'configuration_error',
      expect.stringContaining(`${keyIdA} is not in the keyring`),
    ]);
  });

  it('says passphrase instead of a passphrase’s key id, which would help guessing it', async () => {
    const passphrase = 'a sample passphrase';
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(passphrase, { id: 'a1' });
    const first = await startVault(url, { PROVARA_MASTER_KEY: passphrase });
    const passphraseId = (await first.admin('GET', '/admin/master-keys')).body.active_key_id;
    await first.close();
    const wanted = await ready(await startVault(url, { PROVARA_MASTER_KEY: keyA }));
    const held = await ready(await startVault(url, { PROVARA_MASTER_KEY: 'another sample passphrase' }));
    for (const { status, body } of [wanted, held]) {
      expect(status).toBe(503);
      expect(body.error.message).toContain('passphrase (active)');
      expect(JSON.stringify(body)).not.toContain(passphraseId);
    }
    expect(held.body.error.message).toContain('passphrase (PROVARA_MASTER_KEY)');
    const other = await startVault(url, { PROVARA_MASTER_KEY: keyA });
    const stored = await other.gateway('POST', '/v1/api-keys', { name: 'N', provider: 'openai', value: 'sample' });
    expect([stored.status, stored.body.error.message]).toEqual([
      503,
      expect.stringContaining('The master key passphrase is not'),
    ]);
  });

  it('warns of rows that do not open and of tables that are not covered', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a1' });
    await database.insert(keyC, { id: 'c1' });
    await database.run('CREATE TABLE api_keys_backup AS SELECT * FROM api_keys');
    const { status, body } = await ready(await startVault(url));
    expect(status).toBe(200);
    expect(body.warnings.join('\n')).toMatch(/api_keys_backup holds 2[\s\S]*1 of 2 row\(s\) do not open/);
  });

  it('counts the rows of a large table that is not covered only so far', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.run(`CREATE TABLE copy AS WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 6000)
      SELECT value AS id, '' AS encrypted_value, '' AS iv, '' AS auth_tag FROM n`);
    const vault = await startVault(url);
    const database = new Database({ url });
    onTestFinished(() => database.close());
    expect(await new EncryptedTables(database).discover(100)).toContainEqual({ table: 'copy', rows: 100 });
    const { status, body } = await ready(vault);
    expect([status, body.warnings]).toEqual([200, [expect.stringContaining('copy holds more than 5000 encrypted row(s)')]]);
  });

  it('warns of a passphrase that is to be the next key, unless it was the active one before', async () => {
    const passphrase = 'a sample passphrase';
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(passphrase, { id: 'a1' });
    const back = await startVault(url, { PROVARA_MASTER_KEY: passphrase, PROVARA_MASTER_KEY_NEW: passphrase });
    expect((await ready(back)).body.warnings).toEqual([]);
    const settings = { PROVARA_MASTER_KEY: passphrase, PROVARA_MASTER_KEY_NEW: keyB.slice(1) };
    const { status, body } = await ready(await startVault(url, settings));
    expect([status, body.warnings]).toEqual([200, [expect.stringContaining('PROVARA_MASTER_KEY_NEW is not 64 hex')]]);
  });

  it.runIf(engine === 'file')('does not look into a virtual table, whose module may be another program’s', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a1' });
    const other = new NativeDatabase(url.slice('file:'.length));
    other.exec(`PRAGMA writable_schema = ON; INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
      VALUES ('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING their_module(a)')`);
    other.close();
    const { status, body } = await ready(await startVault(url));
    expect([status, body.warnings]).toEqual([200, []]);
  });

  it('warns of a covered table that is not there', async () => {
    const { url } = await temporaryDatabase();
    const { status, body } = await ready(await startVault(url, { VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}` }));
    expect([status, body.warnings]).toEqual([200, [expect.stringContaining(`The covered table ${connectors} does not exist`)]]);
  });

  it('does not warn of another program’s rows in format 1, nor of a table without rows that is not covered', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'connector' }, connectors);
    await database.run('CREATE TABLE copy AS SELECT * FROM api_keys');
    const settings = { VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}`, VAULT_REQUIRE_FORMAT_2: 'true' };
    const { status, body } = await ready(await startVault(url, settings));
    expect([status, body.warnings]).toEqual([200, []]);
  });

  it('is 200 again as soon as rows that could not be counted can be', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run(connectorTableSql);
    const vault = await startVault(url, { VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}` });
    await database.run(`ALTER TABLE ${connectors} RENAME TO away`);
    await database.run(
      `CREATE TABLE ${connectors} (id text PRIMARY KEY, encrypted_value text, iv text, auth_tag text) WITHOUT ROWID`,
    );
    expect((await ready(vault)).status).toBe(503);
    await database.run(`DROP TABLE ${connectors}`);
    await database.run(`ALTER TABLE away RENAME TO ${connectors}`);
    expect((await ready(vault)).status).toBe(200);
  });

  it('is 200 without warnings for a vault that is well', async () => {
    const { url } = await temporaryDatabase({ withTable: false });
    const vault = await startVault(url);
    expect((await ready(vault)).body).toEqual({ status: 'ready', warnings: [] });
    expect((await caller(vault.origin, null)('GET', '/health')).body).toEqual({ status: 'ok' });
  });
});

describe('a replica without the old key, where a rotation to its key is unfinished', () => {
  /** So many completed rotations, there and back, and one there that was cut off behind its switch. */
  async function cutOffAfter(completed: number) {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a' });
    const { admin, close } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    for (let round = 0; round < completed; round += 1) {
      const [from, to] = round % 2 === 0 ? [keyIdA, keyIdB] : [keyIdB, keyIdA];
      const { status } = await admin('POST', '/admin/rotate/execute', { old_key_id: from, new_key_id: to });
      expect(status).toBe(200);
    }
    await close();
    await database.run(`INSERT INTO vault_rotations (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at, switched, rerun)
      VALUES ('cut-off', 'writing', '${keyIdA}', '${keyIdB}', 0, 0, '[]', unixepoch(), 1, ${completed % 2})`);
    await database.run(`UPDATE vault_active_key SET key_id = '${keyIdB}'`);
    // Whoever runs it has not been heard of to end, so that nobody takes it up.
    await database.run(
      "UPDATE vault_rotation_lease SET rotation_id = 'cut-off', owner = 'another', expires_at = unixepoch() + 15",
    );
    return startVault(url, { PROVARA_MASTER_KEY: keyB });
  }

  it('is ready where the new key was the active one when it was begun: the old key may have been retired since', async () => {
    expect((await ready(await cutOffAfter(1))).status).toBe(200);
  });

  it('is not ready where rows may be under the old key again', async () => {
    const { status, body } = await ready(await cutOffAfter(2));
    expect([status, body.error.message]).toEqual([503, expect.stringContaining(`The master key ${keyIdA} (being rotated)`)]);
  });
});
