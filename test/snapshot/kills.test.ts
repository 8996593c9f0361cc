/** Killed before and after every write of a restore: the tables are what they were or what the snapshot holds, never between. */

import { execFile } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { bytesOf, takeSnapshot } from '../support/snapshot.ts';
import { keyA, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const script = fileURLToPath(new URL('../support/restorer.mjs', import.meta.url));
const rows = 450;

/** Its temporary files would be in `folder`. */
function restoreAndDie(
  args: readonly string[],
  folder: string,
): Promise<{ signal: string | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [script, ...args], { env: { ...process.env, TMPDIR: folder } }, (error, stdout, stderr) => {
      resolve({ signal: error?.signal ?? null, stdout, stderr });
    });
  });
}

describe.each(['merge', 'replace'])('a restore in the mode %s', (mode) => {
  it('writes all or nothing, whichever of its writes it is killed at', { timeout: 300_000 }, async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const vault = await startVault(url);
    await database.fill(keyA, rows);
    const folder = temporaryFolder();
    const file = join(folder, 'taken.ndjson');
    writeFileSync(file, await takeSnapshot(vault));
    await vault.close();
    const [whole, template] = [await bytesOf(database, 'api_keys'), await database.rows()];
    const damage = async (): Promise<void> => {
      await database.run("DELETE FROM api_keys WHERE rowid % 3 = 0 OR id LIKE 'newer%'");
      await database.run("UPDATE api_keys SET auth_tag = 'no hex' WHERE rowid % 3 = 1");
      if (mode === 'replace') await database.insert(keyA, { id: 'newer' });
    };
    const run = (moment: string, ordinal: number) => restoreAndDie([url, file, mode, folder, moment, String(ordinal)], folder);
    await damage();
    const completed = await run('before', 0);
    expect([completed.stderr, await bytesOf(database, 'api_keys')]).toEqual(['', whole]);
    const writes = Number(completed.stdout.split(' ')[1]);
    expect(writes).toBeGreaterThan(4);
    for (const moment of ['before', 'after']) {
      for (let ordinal = 1; ordinal <= writes; ordinal += 1) {
        await database.refill(template);
        await damage();
        const damaged = await bytesOf(database, 'api_keys');
        expect((await run(moment, ordinal)).signal).toBe('SIGKILL');
        const isDone = moment === 'after' && ordinal === writes;
        expect(await bytesOf(database, 'api_keys'), `killed ${moment} write ${ordinal}`).toEqual(isDone ? whole : damaged);
      }
    }
    expect((await run('before', 0)).stderr).toBe('');
    expect(await bytesOf(database, 'api_keys')).toEqual(whole);
    expect(readdirSync(folder).filter((name) => name.endsWith('.spool'))).toEqual([]);
  });
});

describe('what a restore that was killed has staged', () => {
  it('is deleted by the next start once it is an hour old, and not before', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const vault = await startVault(url);
    await database.insert(keyA, { id: 'one' });
    const folder = temporaryFolder();
    const file = join(folder, 'taken.ndjson');
    writeFileSync(file, await takeSnapshot(vault));
    await vault.close();
    await database.run('DELETE FROM api_keys');
    await restoreAndDie([url, file, 'merge', folder, 'after', '2'], folder);
    const staged = async () => (await database.rows('vault_restore_rows')).length;
    expect(await staged()).toBe(1);
    await (await startVault(url)).close();
    expect(await staged()).toBe(1);
    await database.run('UPDATE vault_restores SET started_at = started_at - 3601');
    await (await startVault(url)).close();
    expect(await staged()).toBe(0);
    expect(await database.rows('vault_restores')).toEqual([]);
  });
});
