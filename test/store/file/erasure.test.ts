/** What the vault deletes, replaces or rotates is gone from the file, so that a later copy of it holds no more than the rows. */

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { databaseFilePath } from '../../../src/store/database.ts';
import { keyA, keyB, startVault, temporaryDatabase } from '../../support/vault.ts';

it('no ciphertext that was deleted, replaced or rotated is left in the file', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  for (let index = 0; index < 20; index += 1) await database.insert(keyA, { id: `legacy-${index}`, name: `L${index}` });
  const { gateway, admin, close } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  const store = (index: number, value: string) =>
    gateway('POST', '/v1/api-keys', { name: `K${index}`, provider: 'openai', value });
  const stored: string[] = [];
  for (let index = 0; index < 40; index += 1) stored.push((await store(index, 'x'.repeat(20 + index * 30))).body.key.id);
  await store(40, 'x'.repeat(60_000));
  const sealings = async () =>
    (await database.client.execute('SELECT auth_tag FROM api_keys')).rows.map(({ auth_tag }) => String(auth_tag));
  const old = await sealings();
  for (const id of stored.slice(0, 20)) await gateway('DELETE', `/v1/api-keys/${id}`);
  for (let index = 20; index < 41; index += 1) await store(index, `y${index}`);
  old.push(...(await sealings()));
  expect((await admin('POST', '/admin/rotate/execute', { upgrade_format: true })).body.rotation.state).toBe('completed');
  const present = await sealings();
  await close();
  database.close();
  const file = readFileSync(databaseFilePath(url), 'latin1');
  expect(present.filter((tag) => !file.includes(tag))).toEqual([]);
  expect(old.filter((tag) => file.includes(tag))).toEqual([]);
});
