/** Killed before and after every write that a rotation makes: the same command, run again, finishes it, and no row is lost. */

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { type GatewayDatabase, type GatewayRow, gatewayOpen } from '../support/gateway.ts';
import { runCli } from '../support/process.ts';
import { keyA, keyB, temporaryDatabase } from '../support/vault.ts';

const script = fileURLToPath(new URL('../support/rotator.mjs', import.meta.url));
const rows = 600;

interface Outcome {
  readonly signal: string | null;
  readonly stdout: string;
}

function rotateAndDie(url: string, atomicRows: number, moment: string, ordinal: number): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [script, url, String(atomicRows), moment, String(ordinal)], (error, stdout) => {
      resolve({ signal: error?.signal ?? null, stdout });
    });
  });
}

/** Refills the table with rows under the old key, and forgets every rotation. */
async function reset(gateway: GatewayDatabase, template: readonly Record<string, unknown>[]): Promise<void> {
  const own = await gateway.client.execute(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'vault\\_%' ESCAPE '\\'",
  );
  const emptied = own.rows.flatMap(({ name }) => (name === 'vault_migrations' ? [] : [`DELETE FROM ${name}`]));
  const lease = 'INSERT INTO vault_rotation_lease (one, fence, expires_at) VALUES (1, 0, 0)';
  await gateway.client.batch(['DELETE FROM vault_active_key', ...emptied, lease], 'write');
  await gateway.refill(template);
}

async function valuesUnder(masterKey: string, gateway: GatewayDatabase): Promise<number> {
  const found = (await gateway.rows()) as unknown as GatewayRow[];
  return found.filter((row) => gatewayOpen(masterKey, row) === `sample-value-of-${row.id}`).length;
}

describe.each([
  ['in one commit', 10_000],
  ['in chunks', 100],
])('a rotation %s', (_mode, atomicRows) => {
  it('is finished by the same command, whichever of its writes it was killed at', { timeout: 600_000 }, async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.fill(keyA, rows);
    const template = await gateway.rows();
    // The first run also migrates; the writes are those of the second.
    await rotateAndDie(url, atomicRows, 'before', 0);
    await reset(gateway, template);
    const whole = await rotateAndDie(url, atomicRows, 'before', 0);
    expect(whole.stdout).toMatch(/^completed \d+\n$/);
    const writes = Number(whole.stdout.split(' ')[1]);
    expect(writes).toBeGreaterThan(atomicRows === 100 ? 6 : 4);
    for (const moment of ['before', 'after']) {
      for (let ordinal = 1; ordinal <= writes; ordinal += 1) {
        await reset(gateway, template);
        const killed = await rotateAndDie(url, atomicRows, moment, ordinal);
        expect(killed.signal, `killed ${moment} write ${ordinal}`).toBe('SIGKILL');
        // The lease of the dead is let run out at once, so that the test need not wait for it.
        await gateway.run('UPDATE vault_rotation_lease SET expires_at = 0');
        const again = await runCli(['rotate', '--old', keyA, '--new', keyB], {
          DATABASE_URL: url,
          NODE_ENV: 'production',
          VAULT_ROTATION_ATOMIC_ROWS: String(atomicRows),
        });
        expect([again.code, again.stderr], `killed ${moment} write ${ordinal}`).toEqual([0, '']);
        expect(await gateway.rows()).toHaveLength(rows);
        expect(await valuesUnder(keyB, gateway), `killed ${moment} write ${ordinal}`).toBe(rows);
      }
    }
  });
});
