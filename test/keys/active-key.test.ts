/** Which key seals is asked again of a database that could not say it, and a key that is missing is not taken for damage. */

import { expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { ActiveKey } from '../../src/keys/active-key.ts';
import { MasterKeyStore } from '../../src/store/master-keys.ts';
import { keyA, keyIdA, keyIdB, keyIdC, migratedDatabase } from '../support/vault.ts';

async function start() {
  const { database, gateway } = await migratedDatabase();
  const masterKeys = new MasterKeyStore(database);
  await masterKeys.adopt({ keyId: keyIdA, isPassphrase: false });
  const activeKey = new ActiveKey(masterKeys, new Keyring([{ source: 'KEY', key: parseMasterKey(keyA) }]));
  return { gateway, masterKeys, activeKey };
}

it('what a database has failed to say once is not remembered', async () => {
  const { gateway, activeKey } = await start();
  await gateway.run('ALTER TABLE vault_active_key RENAME TO away');
  await expect(activeKey.sealingKey()).rejects.toThrow('no table vault_active_key');
  await gateway.run('ALTER TABLE away RENAME TO vault_active_key');
  expect((await activeKey.sealingKey()).id).toBe(keyIdA);
});

it('a key that a ciphertext names is missing where the database knows it, though the active one is there', async () => {
  const { masterKeys, activeKey } = await start();
  await masterKeys.register([{ keyId: keyIdB, isPassphrase: false }]);
  await expect(activeKey.assertKeyPresent(keyIdB)).rejects.toThrow(`The master key ${keyIdB} is not in the keyring.`);
  for (const keyId of [keyIdA, keyIdC, null]) await activeKey.assertKeyPresent(keyId);
});
