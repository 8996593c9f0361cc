/** What a rotation takes for granted where the call does not say it: its keys, whom it asks first, and what it leaves out. */

import { describe, expect, it } from 'vitest';
import type { SkippedRow } from '../../src/store/rotation-record.ts';
import type { GatewayDatabase } from '../support/gateway.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, temporaryDatabase } from '../support/vault.ts';

const staged = { PROVARA_MASTER_KEY_NEW: keyB };

async function start(settings: Record<string, string> = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'a' });
  return { url, database, vault: await startVault(url, { ...staged, ...settings }) };
}

/** A rotation from A to B on record that was interrupted before it wrote anything. */
async function interrupted(database: GatewayDatabase, skipped: readonly SkippedRow[] = []): Promise<string> {
  await database.run(
    `INSERT INTO vault_rotations (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at)
     VALUES ('interrupted', 'interrupted', ?, ?, 0, 1, ?, unixepoch())`,
    [keyIdA, keyIdB, JSON.stringify(skipped)],
  );
  return 'interrupted';
}

describe('a rotation that is taken up again', () => {
  it('asks the live replicas for its keys anew, also where it was forced before', async () => {
    const { url, database, vault } = await start();
    await startVault(url);
    await interrupted(database);
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.error?.type]).toEqual([409, 'replica_missing_key']);
    expect(await database.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('is refused where a table with rows that it was begun with is not covered any more', async () => {
    const { url, database, vault } = await start({ VAULT_ENCRYPTED_TABLES: 'api_keys,Others' });
    await database.run('CREATE TABLE others (id text, encrypted_value text, iv text, auth_tag text)');
    await database.run('INSERT INTO others SELECT id, encrypted_value, iv, auth_tag FROM api_keys');
    // Only a write of a row finds that the trigger's table is not there.
    await database.run('CREATE TRIGGER kept BEFORE UPDATE ON others BEGIN INSERT INTO taken_away VALUES (1); END');
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(503);
    await vault.close();
    await database.run('DROP TRIGGER kept');
    const lacking = await startVault(url, { ...staged, VAULT_EXEMPT_TABLES: 'others' });
    for (const path of ['/admin/rotate/dry-run', '/admin/rotate/execute']) {
      const { status, body } = await lacking.admin('POST', path);
      expect([status, body.error?.type, body.error?.details]).toEqual([
        422,
        'uncovered_table',
        { tables: [{ table: 'others', rows: 1 }] },
      ]);
    }
    await lacking.close();
    const whole = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'API_KEYS,others' });
    // Its start takes the rotation up.
    const last = async () => (await whole.admin('GET', '/admin/rotate')).body.last;
    await expect.poll(last).toMatchObject({ state: 'completed', rows_scanned: 2 });
    expect((await database.rows('vault_rotations'))[0]?.covered_tables).toBe('["api_keys","others"]');
    expect(await database.open(keyB, 'a', 'others')).toBe('sample-value-of-a');
  });

  it('is finished without a table that it was begun with and that is empty or gone', async () => {
    const { url, database, vault } = await start();
    await database.run('CREATE TABLE others (id text, encrypted_value text, iv text, auth_tag text)');
    await interrupted(database);
    await database.run(`UPDATE vault_rotations SET covered_tables = '["api_keys","others","gone"]'`);
    expect((await vault.admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ state: 'completed' });
    await startVault(url, staged);
  });

  it('leaves out what it left out before', async () => {
    const { database, vault } = await start();
    await database.insert('f'.repeat(64), { id: 'bad' });
    const id = await interrupted(database, [{ table: 'api_keys', id: 'bad' }]);
    const { body } = await vault.admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ id, state: 'completed', rows_rotated: 1, rows_skipped: 1 });
  });

  it.each([
    ['old', { old_key_id: keyIdC, new_key_id: keyIdB }],
    ['new', { old_key_id: keyIdA, new_key_id: keyIdC }],
  ])('is refused with another %s key than it was begun with', async (_which, keys) => {
    const { database, vault } = await start({ PROVARA_MASTER_KEY_OLD: keyC });
    const id = await interrupted(database);
    for (const path of ['/admin/rotate/dry-run', '/admin/rotate/execute']) {
      const { status, body } = await vault.admin('POST', path, keys);
      expect([status, body.error?.details]).toEqual([409, { rotation_id: id, from_key_id: keyIdA, to_key_id: keyIdB }]);
    }
  });
});

describe('a rotation', () => {
  it('goes by itself to no key that was active before', async () => {
    const { database, vault } = await start();
    await vault.admin('POST', '/admin/rotate/execute');
    await vault.admin('POST', '/admin/rotate/execute', { old_key_id: keyIdB, new_key_id: keyIdA });
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.error?.message]).toEqual([400, expect.stringContaining('set PROVARA_MASTER_KEY_NEW')]);
    expect(await database.open(keyA, 'a')).toBe('sample-value-of-a');
  });

  it('that is finished may be run again beside a replica which has retired the old key', async () => {
    const { url, vault } = await start();
    await vault.admin('POST', '/admin/rotate/execute');
    await startVault(url, { PROVARA_MASTER_KEY: keyB });
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.rotation?.rows_already_rotated]).toEqual([200, 1]);
  });
});
