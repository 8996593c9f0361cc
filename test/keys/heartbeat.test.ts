/** A replica is on record with its keys before it is ready, and for as long as it lives. */

import { describe, expect, it } from 'vitest';
import { keyB, keyIdA, keyIdB, startVault, temporaryDatabase } from '../support/vault.ts';

describe('a replica', () => {
  it('is heard of again and again, with all of its keys', async () => {
    const { url, gateway } = await temporaryDatabase();
    const { services } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    await gateway.run('UPDATE vault_replicas SET seen_at = unixepoch() - 60');
    await expect.poll(() => services.replicas.live()).toMatchObject([{ keyIds: [keyIdA, keyIdB] }]);
  });

  it('that cannot be put on record does not start', async () => {
    const { url, gateway } = await temporaryDatabase();
    await (await startVault(url)).close();
    await gateway.run(
      "CREATE TRIGGER refusal BEFORE INSERT ON vault_replicas BEGIN SELECT RAISE(ABORT, 'refused on purpose'); END",
    );
    await expect(startVault(url)).rejects.toThrow('refused on purpose');
  });
});
