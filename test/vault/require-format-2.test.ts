/** With VAULT_REQUIRE_FORMAT_2 a row that is bound to no tenant is never answered, and never lost either. */

import { describe, expect, it } from 'vitest';
import { caller, keyA, keyB, startVault, temporaryDatabase } from '../support/vault.ts';

const strict = { VAULT_REQUIRE_FORMAT_2: 'true', PROVARA_MASTER_KEY_NEW: keyB };

/** One row in format 1, and one in format 2 that the vault stored. */
async function start(settings: Record<string, string>) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'old', name: 'OLD', value: 'sample-value-old' });
  const vault = await startVault(url, settings);
  await vault.gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample-value-new' });
  return { ...vault, url, database };
}

describe('a row in format 1 where format 2 is required', () => {
  it('is not decrypted, with the one opaque error; a row in format 2 is', async () => {
    const { gateway } = await start(strict);
    const refused = await gateway('POST', '/v1/api-keys/decrypt', { name: 'OLD' });
    expect([refused.status, refused.body.error.type]).toEqual([422, 'decrypt_failed']);
    expect(refused.body.error.message).toBe('The ciphertext could not be decrypted.');
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'NEW' })).body.key.value).toBe('sample-value-new');
  });

  it('is an error in decrypt-all and does not show its last characters in a list, and hides no other row', async () => {
    const { gateway } = await start(strict);
    const { keys } = (await gateway('POST', '/v1/api-keys/decrypt-all', {})).body;
    const byName = new Map<string, { value?: string; error?: { type: string } }>(
      keys.map((key: { name: string }) => [key.name, key]),
    );
    expect(byName.get('OLD')).toMatchObject({ error: { type: 'decrypt_failed' } });
    expect(byName.get('NEW')).toMatchObject({ value: 'sample-value-new' });
    const listed = (await gateway('GET', '/v1/api-keys')).body.keys;
    expect(listed.map(({ name, masked_value }: Record<string, string>) => `${name} ${masked_value}`).sort()).toEqual([
      'NEW ••••••••-new',
      'OLD ••••(decrypt error)',
    ]);
    expect((await gateway('GET', '/v1/api-keys/old')).body.key.masked_value).toBe('••••(decrypt error)');
  });

  it('that someone moved in from another tenant is refused too, which it is not otherwise', async () => {
    for (const [settings, status] of [
      [{}, 200],
      [strict, 422],
    ] as const) {
      const { gateway, database } = await start(settings);
      await database.run("UPDATE api_keys SET tenant_id = 'thief' WHERE id = 'old'");
      expect((await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'thief', name: 'OLD' })).status).toBe(status);
    }
  });

  it('is counted by /ready, which still answers 200', async () => {
    const { origin } = await start(strict);
    const { status, body } = await caller(origin, null)('GET', '/ready');
    expect(status).toBe(200);
    expect(body.warnings).toEqual([
      expect.stringMatching(/^1 row\(s\) of api_keys are in format 1, which VAULT_REQUIRE_FORMAT_2/),
    ]);
  });

  it('is not warned of where it is not refused', async () => {
    const { origin } = await start({ PROVARA_MASTER_KEY_NEW: keyB });
    expect((await caller(origin, null)('GET', '/ready')).body.warnings).toEqual([]);
  });

  it('is rotated all the same, and answered, and warned of no more, once a rotation has upgraded it', async () => {
    const { gateway, admin, database, origin } = await start(strict);
    const ready = async () => (await caller(origin, null)('GET', '/ready')).body.warnings.join();
    const rotated = await admin('POST', '/admin/rotate/execute', {});
    expect(rotated.body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
    expect(await database.open(keyB, 'old')).toBe('sample-value-old');
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'OLD' })).status).toBe(422);
    expect(await ready()).toContain('format 1');
    const upgraded = await admin('POST', '/admin/rotate/execute', { upgrade_format: true });
    expect(upgraded.body.rotation.state).toBe('completed');
    expect(await ready()).toBe('');
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'OLD' })).body.key.value).toBe('sample-value-old');
  });
});

describe('a row in format 2', () => {
  it.each(['tenant_id', 'name', 'provider'])('does not open once someone has written another %s beside it', async (column) => {
    const { gateway, database } = await start({});
    await database.run(`UPDATE api_keys SET ${column} = 'thief' WHERE name = 'NEW'`);
    const name = column === 'name' ? 'thief' : 'NEW';
    const tenantId = column === 'tenant_id' ? 'thief' : null;
    const { status, body } = await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: tenantId, name });
    expect([status, body.error.type]).toEqual([422, 'decrypt_failed']);
  });

  it('does not open with the ciphertext of another row, under whatever tenant', async () => {
    const { gateway, database } = await start({});
    await gateway('POST', '/v1/api-keys', { tenant_id: 'acme', name: 'NEW', provider: 'openai', value: 'sample-value-acme' });
    await database.run(`UPDATE api_keys SET (encrypted_value, iv, auth_tag, key_id_tag) =
      (SELECT encrypted_value, iv, auth_tag, key_id_tag FROM api_keys WHERE name = 'NEW' AND tenant_id = 'acme')
      WHERE name = 'NEW' AND tenant_id IS NULL`);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'NEW' })).status).toBe(422);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'NEW' })).status).toBe(200);
  });
});
