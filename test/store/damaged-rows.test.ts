/** A row whose columns another program has filled with what is no text, or no UTF-8, is itself unreadable, and keeps nobody from the others. */

import { describe, expect, it } from 'vitest';
import { keyA, keyB, keyIdA, startVault, temporaryDatabase } from '../support/vault.ts';

const damages = [
  ['text that is no UTF-8', "CAST(x'ff' AS text)", 4],
  ['bytes', "x'ff00'", 4],
  ['a NUL', "'a' || char(0) || 'b'", 7],
] as const;
const columns = ['id', 'tenant_id', 'name', 'provider', 'encrypted_value', 'iv', 'auth_tag', 'created_at', 'updated_at'];

describe.each(damages)('%s in any column', (_damage, sql, upgradable) => {
  it('stops no start, list, decrypt or count, and a rotation names the row that does not open', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'sound', tenantId: 'acme' });
    for (const column of columns) {
      await database.insert(keyA, { id: `damaged-${column}`, tenantId: 'acme' });
      await database.run(`UPDATE api_keys SET ${column} = ${sql} WHERE id = 'damaged-${column}'`);
    }
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    expect((await vault.admin('GET', '/ready')).status).toBe(200);
    const sound = await vault.gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'sound' });
    expect(sound.body.key.value).toBe('sample-value-of-sound');
    const listed = await vault.gateway('GET', '/v1/api-keys?tenant_id=acme');
    expect(listed.body.keys.length).toBeGreaterThanOrEqual(columns.length - 1);
    const opened = await vault.gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'acme' });
    expect(opened.body.keys).toContainEqual(expect.objectContaining({ id: 'sound', value: 'sample-value-of-sound' }));
    expect((await vault.gateway('GET', '/v1/tenants')).body.tenants).toContainEqual(
      expect.objectContaining({ tenant_id: 'acme' }),
    );
    const tenants: unknown[] = [];
    for (let cursor = ''; tenants.length < 10; ) {
      const page = (await vault.gateway('GET', `/v1/tenants?limit=1${cursor}`)).body;
      tenants.push(...page.tenants.map(({ tenant_id }: { tenant_id: string | null }) => tenant_id));
      if (page.next_cursor === null) break;
      cursor = `&cursor=${page.next_cursor}`;
    }
    expect(tenants).toEqual(['acme']);
    let pages = 1;
    for (let cursor = ''; pages < 20; pages += 1) {
      const page = await vault.gateway('GET', `/v1/api-keys?tenant_id=acme&limit=1${cursor}`);
      if (page.body.next_cursor === null) break;
      cursor = `&cursor=${page.body.next_cursor}`;
    }
    expect(pages).toBe(listed.body.keys.length);
    const survey = await vault.admin('POST', '/admin/verify');
    expect(survey.body).toMatchObject({ rows_scanned: columns.length + 1, rows_failed: 3 });
    const refused = await vault.admin('POST', '/admin/rotate/execute');
    expect([refused.status, refused.body.error.details.rows_failed]).toEqual([422, 3]);
    const skipIds = refused.body.error.details.failures.map(({ id }: { id: string }) => id);
    const rotated = await vault.admin('POST', '/admin/rotate/execute', { skip_ids: skipIds });
    expect(rotated.body.rotation).toMatchObject({ state: 'completed', rows_skipped: 3, rows_rotated: columns.length - 2 });
    expect(rotated.body.rotation.from_key_id).toBe(keyIdA);
    const upgraded = await vault.admin('POST', '/admin/rotate/execute', { skip_ids: skipIds, upgrade_format: true });
    // The sound row, and those whose id or times alone are damaged: the others could not be bound to anything.
    expect(upgraded.body.rotation).toMatchObject({ state: 'completed', rows_rotated: upgradable });
  });
});
