/** An active key that is overdue is said so in the log, again and again, and no other key is. */

import { describe, expect, it, onTestFinished } from 'vitest';
import { watchAge } from '../../src/keys/age-watch.ts';
import { keyB, keyIdA, keyIdB, startVault, temporaryDatabase } from '../support/vault.ts';

const patience = { timeout: 30_000 };

describe('the watch over the age of the active key', () => {
  it('says so at the start and at every interval while the key is due, and falls silent after a rotation', async () => {
    const { url, gateway } = await temporaryDatabase();
    const { services, admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    await gateway.run(`UPDATE vault_master_keys SET activated_at = unixepoch() - 366 * 86400 WHERE key_id = '${keyIdA}'`);
    const said: unknown[] = [];
    const start = () =>
      watchAge(
        { masterKeys: services.masterKeys, rotationDueDays: 365, logger: { warn: (fields: unknown) => said.push(fields) } },
        5,
      );
    let watch = start();
    onTestFinished(() => watch.stop());
    await expect.poll(() => said.length, patience).toBeGreaterThan(2);
    expect(said[0]).toEqual({ key_id: keyIdA, age_days: 366, due_days: 365 });

    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(200);
    await watch.stop();
    said.length = 0;
    watch = start();
    await watch.stop();
    expect(await services.masterKeys.activeKeyId()).toBe(keyIdB);
    expect(said).toEqual([]);
  });

  it('says nothing of a key that is younger, nor of an old one that is not active', async () => {
    const { url, gateway } = await temporaryDatabase();
    const { services } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    await gateway.run(
      `UPDATE vault_master_keys SET first_seen_at = 1, activated_at = iif(key_id = '${keyIdA}', unixepoch() - 364 * 86400, NULL)`,
    );
    const said: unknown[] = [];
    const start = () =>
      watchAge({
        masterKeys: services.masterKeys,
        rotationDueDays: 365,
        logger: { warn: (fields: unknown) => said.push(fields) },
      });
    await start().stop();
    expect(said).toEqual([]);
  });
});
