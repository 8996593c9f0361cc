/** A key is called safe to retire only while nothing that the vault can see needs it, and only where it can tell; when texts last needed it is told beside. */

import { expect, it, onTestFinished } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { reportMasterKeys } from '../../src/keys/report.ts';
import { surveyHere } from '../../src/keys/surveyor.ts';
import { Database } from '../../src/store/database.ts';
import { buildStores } from '../../src/workers.ts';
import { connectorTableSql, gatewaySeal } from '../support/gateway.ts';
import { sendSnapshot, takeSnapshot } from '../support/snapshot.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, type TestVault, temporaryDatabase } from '../support/vault.ts';

/** A vault that has rotated a table of so many rows from A to B. */
async function rotated(skipped: readonly string[] = [], rows = 1) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, rows);
  for (const id of skipped) await database.insert(keyA, { id });
  await database.run("UPDATE api_keys SET auth_tag = '00' WHERE id NOT LIKE 'row-%'");
  const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, PROVARA_MASTER_KEY_OLD: keyC });
  expect((await vault.admin('POST', '/admin/rotate/execute', { skip_ids: skipped })).status).toBe(200);
  return { url, database, vault };
}

async function reportOf({ admin }: TestVault, keyId: string) {
  const { keys } = (await admin('GET', '/admin/master-keys')).body;
  return keys.find(({ key_id }: { key_id: string }) => key_id === keyId);
}

it('a key that the keyring lacks is never safe to retire: which rows it opens cannot be told', async () => {
  const { url, database, vault } = await rotated();
  expect(await reportOf(vault, keyIdA)).toMatchObject({ state: 'retired', rows: 0, safe_to_retire: true });
  await vault.close();
  await database.insert(keyA, { id: 'late' });
  const without = await startVault(url, { PROVARA_MASTER_KEY: keyB });
  expect(await reportOf(without, keyIdA)).toMatchObject({ state: 'retired', rows: null, safe_to_retire: false });
});

it('a staged key is not to be retired, and an old one from before the vault is, once no row is under it', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'active' });
  await database.insert(keyB, { id: 'old' });
  const vault = await startVault(url, { PROVARA_MASTER_KEY_OLD: keyB, PROVARA_MASTER_KEY_NEW: keyC });
  expect(await reportOf(vault, keyIdB)).toMatchObject({ state: 'retired', rows: 1, safe_to_retire: false });
  expect(await reportOf(vault, keyIdC)).toMatchObject({ state: 'staged', rows: 0, safe_to_retire: false });
  await database.run("DELETE FROM api_keys WHERE id = 'old'");
  expect(await reportOf(vault, keyIdB)).toMatchObject({ state: 'retired', rows: 0, safe_to_retire: true });
  await vault.close();
  // A replica that does not have it yet.
  const other = await startVault(url);
  expect(await reportOf(other, keyIdC)).toMatchObject({ state: 'staged', rows: null, safe_to_retire: false });
});

it('is new, and no younger than that, where the database’s clock is ahead', async () => {
  const { database, vault } = await rotated();
  await database.run('UPDATE vault_master_keys SET activated_at = unixepoch() + 100 WHERE key_id = ?', [keyIdB]);
  expect(await reportOf(vault, keyIdB)).toMatchObject({ age_days: 0 });
});

it('a key that was mistyped is not on record: a process that lacks the active one records none', async () => {
  const { url, database, vault } = await rotated();
  await vault.close();
  const mistyped = 'd4'.repeat(32);
  await (await startVault(url, { PROVARA_MASTER_KEY: mistyped })).close();
  const known = (await database.rows('vault_master_keys')).map(({ key_id }) => key_id);
  expect(known).not.toContain(parseMasterKey(mistyped).id);
  const { url: unservedUrl, gateway: unserved } = await temporaryDatabase();
  await unserved.insert(keyA, { id: 'one' });
  for (const key of [mistyped, keyA]) await (await startVault(unservedUrl, { PROVARA_MASTER_KEY: key })).close();
  expect((await unserved.rows('vault_master_keys')).map(({ key_id }) => key_id)).toEqual([keyIdA]);
  await (await startVault(url, { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_OLD: mistyped })).close();
  expect((await database.rows('vault_master_keys')).length).toBe(known.length + 1);
});

it('no key is safe to retire while one table that is not covered holds rows', async () => {
  const { database, vault } = await rotated();
  await database.run(connectorTableSql);
  expect((await reportOf(vault, keyIdA)).safe_to_retire).toBe(true);
  await database.insert(keyA, { id: 'credential' }, 'context_connector_credentials');
  expect((await reportOf(vault, keyIdA)).safe_to_retire).toBe(false);
});

it('the old key of a rotation is safe to retire only once that has ended, though no row is under it', async () => {
  const { database, vault } = await rotated();
  await database.run("UPDATE vault_rotations SET state = 'verify_failed'");
  expect(await reportOf(vault, keyIdA)).toMatchObject({ rows: 0, safe_to_retire: false });
  expect((await vault.admin('POST', '/admin/rotate/execute')).body.rotation.state).toBe('completed');
  expect(await reportOf(vault, keyIdA)).toMatchObject({ rows: 0, safe_to_retire: true });
});

it('a row that does not open and that several rotations have skipped keeps the old key of each', async () => {
  const { database, vault } = await rotated(['damaged']);
  const next = { old_key_id: keyIdB, new_key_id: keyIdC, skip_ids: ['damaged'] };
  expect((await vault.admin('POST', '/admin/rotate/execute', next)).status).toBe(200);
  const old = async () => [await reportOf(vault, keyIdA), await reportOf(vault, keyIdB)];
  expect(await old()).toMatchObject(Array(2).fill({ rows: 0, safe_to_retire: false }));
  await database.run("DELETE FROM api_keys WHERE id = 'damaged'");
  expect(await old()).toMatchObject(Array(2).fill({ rows: 0, safe_to_retire: true }));
});

it('a row that was skipped keeps its key also where more rows do not open than are listed', async () => {
  const { database, vault } = await rotated(['skipped'], 1_000);
  await database.run("UPDATE api_keys SET auth_tag = '00'");
  const { rows_failed, failures } = (await vault.admin('POST', '/admin/verify')).body;
  expect([rows_failed, failures.length]).toEqual([1_001, 1_000]);
  expect(failures.map(({ id }: { id: string }) => id)).not.toContain('skipped');
  expect(await reportOf(vault, keyIdA)).toMatchObject({ rows: 0, safe_to_retire: false });
});

it('a key is not safe to retire where a restore puts a row back under it while all rows are looked through', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'lost' });
  const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  const snapshot = await takeSnapshot(vault);
  await database.run('DELETE FROM api_keys');
  expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
  const { keyring, coverage } = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB });
  const opened = new Database({ url });
  onTestFinished(() => opened.close());
  const stores = buildStores(opened, keyring);
  let surveys = 0;
  const survey = async () => {
    const found = await surveyHere(stores.tables, coverage, keyring).survey();
    surveys += 1;
    if (surveys === 1) expect((await sendSnapshot(vault, snapshot)).body).toMatchObject({ restored: 1 });
    return found;
  };
  const surveyor = { survey, close: async () => undefined };
  const { keys } = await reportMasterKeys({ ...stores, coverage, keyring, surveyor, rotationDueDays: 365 });
  expect(keys.find(({ keyId }) => keyId === keyIdA)).toMatchObject({ rows: 1, safeToRetire: false });
});

it.each(['decrypt', 'rewrap'])(
  'a %s of a text is reported as the last stateless use of its key, also after a restart',
  async (act) => {
    const { url } = await temporaryDatabase();
    const keys = { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_OLD: keyA };
    const vault = await startVault(url, keys);
    expect((await reportOf(vault, keyIdA)).stateless_last_used_at).toBeNull();
    const before = new Date(Math.floor(Date.now() / 1000) * 1000).toISOString();
    expect((await vault.gateway('POST', `/v1/${act}`, gatewaySeal(keyA, 'sample-credential'))).status).toBe(200);
    await vault.close();
    const { stateless_last_used_at: lastUsedAt } = await reportOf(await startVault(url, keys), keyIdA);
    expect(lastUsedAt >= before).toBe(true);
  },
);

it.each([
  ['encrypt', { plaintext: 'sample-credential' }],
  ['rewrap', gatewaySeal(keyA, 'sample-credential')],
])('a key is on record as used by stateless calls before anybody has what it has sealed: %s', async (act, body) => {
  const { url, gateway: database } = await temporaryDatabase();
  const vault = await startVault(url);
  expect((await vault.gateway('POST', `/v1/${act}`, body)).status).toBe(200);
  const [recorded] = await database.rows('vault_master_keys');
  expect(recorded?.['stateless_last_used_at']).not.toBeNull();
});

it('a key that has become the active one again is as old as since the first time', async () => {
  const { database, vault } = await rotated();
  await database.run('UPDATE vault_master_keys SET activated_at = activated_at - 10 * 86400 WHERE key_id = ?', [keyIdA]);
  const back = { old_key_id: keyIdB, new_key_id: keyIdA };
  expect((await vault.admin('POST', '/admin/rotate/execute', back)).status).toBe(200);
  expect(await reportOf(vault, keyIdA)).toMatchObject({ state: 'active', age_days: 10 });
});
