/** With a folder for snapshots set, a rotation first keeps the tables as they were, and writes nothing where it cannot. */

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../support/process.ts';
import { sendSnapshot } from '../support/snapshot.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

async function start(settings: Record<string, string> = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, 5);
  const folder = temporaryFolder();
  const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_SNAPSHOT_DIR: folder, ...settings });
  return { url, database, folder, vault };
}

describe.each([
  ['in one commit', '10000'],
  ['in chunks', '2'],
])('a rotation %s', (_mode, atomicRows) => {
  it('names a file that is whole, and from which the tables come back byte for byte', async () => {
    const { database, folder, vault } = await start({ VAULT_ROTATION_ATOMIC_ROWS: atomicRows });
    const before = await database.rows();
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.rotation.state]).toEqual([200, 'completed']);
    const { path, sha256 } = body.rotation.snapshot;
    expect(readdirSync(folder).map((name) => join(folder, name))).toEqual([path]);
    const contents = readFileSync(path);
    expect(createHash('sha256').update(contents).digest('hex')).toBe(sha256);
    expect((await vault.admin('GET', `/admin/rotate/${body.rotation.id}`)).body.rotation.snapshot).toEqual({ path, sha256 });
    expect((await sendSnapshot(vault, contents.toString('utf8'), 'replace')).body).toEqual({ restored: 5, kept: 0 });
    expect(await database.rows()).toEqual(before);
    expect((await vault.admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
  });
});

describe('a rotation', () => {
  it('that finds nothing to rotate keeps no snapshot, and neither does a dry run or one that is refused', async () => {
    const { database, folder, vault } = await start();
    await vault.admin('POST', '/admin/rotate/dry-run');
    await database.insert('c3'.repeat(32), { id: 'foreign' });
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(422);
    expect(readdirSync(folder)).toEqual([]);
    await database.run("DELETE FROM api_keys WHERE id = 'foreign'");
    await vault.admin('POST', '/admin/rotate/execute');
    const again = await vault.admin('POST', '/admin/rotate/execute');
    expect([again.status, again.body.rotation.rows_already_rotated, again.body.rotation.snapshot]).toEqual([200, 5, null]);
    expect(readdirSync(folder)).toHaveLength(1);
  });

  it('that skips a row keeps a snapshot from which the others come back all the same', async () => {
    const { database, vault } = await start();
    await database.insert('f'.repeat(64), { id: 'bad' });
    const { body } = await vault.admin('POST', '/admin/rotate/execute', { skip_ids: ['bad'] });
    const snapshot = readFileSync(body.rotation.snapshot.path, 'utf8');
    await database.run("DELETE FROM api_keys WHERE id IN ('row-0', 'row-1')");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 2, kept: 4 });
    expect((await sendSnapshot(vault, snapshot, 'replace')).status).toBe(200);
    expect((await database.rows()).map(({ id }) => id)).toEqual(['row-0', 'row-1', 'row-2', 'row-3', 'row-4', 'bad']);
  });

  it('that was interrupted before it wrote anything keeps one when it is run again, and may be cancelled', async () => {
    const { database, folder, vault } = await start();
    await vault.admin('POST', '/admin/rotate/execute');
    const interrupted = (id: string) =>
      database.run(
        `INSERT INTO vault_rotations (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at)
         VALUES (?, 'interrupted', ?, ?, 1, 0, '[]', unixepoch())`,
        [id, keyIdA, keyIdB],
      );
    await interrupted('to-cancel');
    expect((await vault.admin('GET', '/ready')).status).toBe(200);
    expect((await vault.admin('POST', '/admin/rotate/to-cancel/cancel')).body.rotation.state).toBe('cancelled');
    await interrupted('to-resume');
    const { body } = await vault.admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ id: 'to-resume', state: 'completed', rows_rotated: 5 });
    expect(readdirSync(folder).map((name) => join(folder, name))).toContain(body.rotation.snapshot.path);
  });

  it('that was interrupted behind the switch keeps the one of its first attempt, and no other, when it is run again', async () => {
    const { database, folder, vault } = await start();
    const { id, snapshot } = (await vault.admin('POST', '/admin/rotate/execute')).body.rotation;
    await database.insert(keyA, { id: 'late' });
    await database.run("UPDATE vault_rotations SET state = 'interrupted'");
    const { body } = await vault.admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ id, state: 'completed', rows_rotated: 1, snapshot });
    expect(readdirSync(folder).map((name) => join(folder, name))).toEqual([snapshot.path]);
  });

  it('writes nothing where the snapshot cannot be written, and says why', async () => {
    const { database, folder, vault } = await start();
    const before = await database.rows();
    rmSync(folder, { recursive: true });
    const { status, body } = await vault.admin('POST', '/admin/rotate/execute');
    expect([status, body.error.type]).toEqual([503, 'configuration_error']);
    expect(body.error.message).toContain(folder);
    expect(await database.rows()).toEqual(before);
    expect((await vault.admin('GET', '/admin/rotate')).body.last.state).toBe('failed');
  });

  it('of the command line keeps one too, and prints where', async () => {
    const { url, folder, vault } = await start();
    await vault.close();
    const { code, stdout } = await runCli(['rotate', '--old', keyA, '--new', keyB], {
      DATABASE_URL: url,
      NODE_ENV: 'production',
      VAULT_SNAPSHOT_DIR: folder,
    });
    const [name = ''] = readdirSync(folder);
    expect([code, stdout]).toEqual([0, expect.stringContaining(`[rotate] before: ${join(folder, name)}, SHA-256 `)]);
  });
});
