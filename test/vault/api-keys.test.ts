/** A store seals under the key that is active when it is written, whatever this process remembers. */

import { expect, it, vi } from 'vitest';
import { ApiKeyStore } from '../../src/store/api-keys.ts';
import { keyB, keyIdA, keyIdB, startVault, temporaryDatabase, tester } from '../support/vault.ts';

it('seals anew, unseen by the caller, where the active key has been switched since it was last read', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  const { services } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  const store = (name: string) => services.apiKeys.store(tester, { tenantId: null, name, provider: 'openai', value: 'sample' });
  expect((await store('BEFORE')).key.keyId).toBe(keyIdA);
  await database.run('UPDATE vault_active_key SET key_id = ?', [keyIdB]);
  expect((await store('AFTER')).key.keyId).toBe(keyIdB);
  expect((await services.verify()).rowsByKeyId).toEqual(
    new Map([
      [keyIdA, 1],
      [keyIdB, 1],
    ]),
  );
});

it.each([
  ['the active key', 'The active master key keeps changing'],
  ['the row of its name', 'Others keep storing and deleting this name'],
])('says so where %s is another at each attempt', async (what, message) => {
  const { url, gateway: database } = await temporaryDatabase();
  const { services } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  const store = () => services.apiKeys.store(tester, { tenantId: null, name: 'K', provider: 'openai', value: 'sample' });
  await store();
  const keyIds = [keyIdA, keyIdB];
  const put = ApiKeyStore.prototype.put;
  // Between the lookup and the write.
  const changing = vi.spyOn(ApiKeyStore.prototype, 'put').mockImplementation(async function (this: ApiKeyStore, ...args) {
    if (what === 'the active key') await database.run('UPDATE vault_active_key SET key_id = ?', [keyIds.reverse()[0] ?? '']);
    else await database.run('UPDATE api_keys SET id = lower(hex(randomblob(8)))');
    return put.apply(this, args);
  });
  await expect(store()).rejects.toMatchObject({ code: 'storage_unavailable', message: expect.stringContaining(message) });
  changing.mockRestore();
  expect((await services.verify()).rowsScanned).toBe(1);
});
