/** Which key seals is asked again of a database that could not say it, and a key that is missing is not taken for damage. */

import { expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { DecryptFailedError } from '../../src/errors.ts';
import { ActiveKey } from '../../src/keys/active-key.ts';
import { MasterKeyStore } from '../../src/store/master-keys.ts';
import { keyA, keyIdA, keyIdB, keyIdC, migratedDatabase } from '../support/vault.ts';

async function start() {
  const { database, gateway } = await migratedDatabase();
  const masterKeys = new MasterKeyStore(database);
  await masterKeys.adopt({ id: keyIdA, isPassphrase: false });
  const activeKey = new ActiveKey(masterKeys, new Keyring([{ source: 'KEY', key: parseMasterKey(keyA) }]));
  return { database, gateway, masterKeys, activeKey };
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
  await masterKeys.register([{ id: keyIdB, isPassphrase: false }]);
  expect((await activeKey.whyUnopened(keyIdB)).message).toContain(`The master key ${keyIdB} is not in the keyring.`);
  for (const keyId of [keyIdA, keyIdC, null]) expect(await activeKey.whyUnopened(keyId)).toBeInstanceOf(DecryptFailedError);
});

it('why many ciphertexts do not open is asked of the database once', async () => {
  const { database } = await start();
  let reads = 0;
  class CountedStore extends MasterKeyStore {
    override all(): ReturnType<MasterKeyStore['all']> {
      reads += 1;
      return super.all();
    }
  }
  const activeKey = new ActiveKey(new CountedStore(database), new Keyring([]));
  const reasons = await Promise.all(Array.from({ length: 100 }, () => activeKey.whyUnopened(keyIdA)));
  expect(new Set(reasons.map(({ code }) => code))).toEqual(new Set(['configuration_error']));
  expect(reads).toBe(1);
});
