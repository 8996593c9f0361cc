/** What processes tell each other through the database: which key is active, who lives, and which writes are settled. */

import { expect, it } from 'vitest';
import { MasterKeyStore } from '../../src/store/master-keys.ts';
import { ReplicaStore } from '../../src/store/replicas.ts';
import { keyIdA, keyIdB, migratedDatabase } from '../support/vault.ts';

it('of two first starts with different keys one makes its key the active one, and the other leaves it', async () => {
  const { database } = await migratedDatabase();
  const masterKeys = new MasterKeyStore(database);
  for (const keyId of [keyIdA, keyIdB]) await masterKeys.adopt({ id: keyId, isPassphrase: false });
  expect(await masterKeys.activeKeyId()).toBe(keyIdA);
  expect((await masterKeys.all()).map(({ keyId, activatedAt }) => [keyId, activatedAt !== null])).toEqual([
    [keyIdA, true],
    [keyIdB, false],
  ]);
});

it('a replica that is heard of finds old marks without looking at all of them', async () => {
  const { gateway } = await migratedDatabase();
  const { rows } = await gateway.client.execute(
    'EXPLAIN QUERY PLAN DELETE FROM vault_writes WHERE written_at < unixepoch() - 3600',
  );
  expect(rows.map(({ detail }) => detail)).toEqual(['SEARCH vault_writes USING INDEX vault_writes_written_at (written_at<?)']);
});

it('a replica that is heard of forgets what is an hour old, and no write that may still be sent again', async () => {
  const { database, gateway } = await migratedDatabase();
  for (const [id, age] of [
    ['past', 3_700],
    ['recent', 3_500],
    ['present', 0],
  ] as const) {
    await gateway.run("INSERT INTO vault_writes (id, changed, written_at) VALUES (?, '1 ', unixepoch() - ?)", [id, age]);
    await gateway.run("INSERT INTO vault_replicas (id, host, key_ids, seen_at) VALUES (?, 'sample', '[]', unixepoch() - ?)", [
      id,
      age,
    ]);
  }
  await new ReplicaStore(database).beat({ id: 'replica', host: 'sample', keyIds: [] });
  const idsOf = async (table: string) => (await gateway.rows(table)).map(({ id }) => id);
  // On a server the beat leaves a mark of its own.
  expect(await idsOf('vault_writes')).toEqual(expect.arrayContaining(['recent', 'present']));
  expect(await idsOf('vault_writes')).not.toContain('past');
  expect(await idsOf('vault_replicas')).toEqual(['recent', 'present', 'replica']);
});
