/** A store seals under the key that is active when it is written, whatever this process remembers. */

import { expect, it } from 'vitest';
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
