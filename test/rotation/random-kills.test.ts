/** Two hundred kills -9 at random moments: the same command goes on after each, and every row opens with one of the two keys. */

import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { type GatewayDatabase, type GatewayRow, gatewayOpen } from '../support/gateway.ts';
import { runCli } from '../support/process.ts';
import { keyA, keyB, temporaryDatabase } from '../support/vault.ts';

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const rows = 20_000;
const kills = 200;
/** Each run that is killed lets the next live longer, and each that ends shorter: on any machine about one in fifteen ends. */
const life = { mostMs: 1_100, afterKill: 1.02, afterEnd: 0.75 };
/** A row that is lost stays so: the gate of the next run would stop at it as well. */
const checkEvery = 20;

function opensWithOneOf(keys: readonly string[], row: GatewayRow): boolean {
  return keys.some((key) => {
    try {
      return gatewayOpen(key, row) === `sample-value-of-${row.id}`;
    } catch {
      return false;
    }
  });
}

async function lostRows(gateway: GatewayDatabase, keys: readonly string[]): Promise<string[]> {
  const found = (await gateway.rows()) as unknown as GatewayRow[];
  expect(found).toHaveLength(rows);
  return found.filter((row) => !opensWithOneOf(keys, row)).map(({ id }) => id);
}

it('lose no row, and the last run finishes', { timeout: 900_000 }, async () => {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  let [from, to] = [keyA, keyB];
  let completed = 0;
  let mostMs = life.mostMs;
  const environment = (): Record<string, string> => ({
    DATABASE_URL: url,
    NODE_ENV: 'production',
    // In chunks or in one commit, whichever this run takes up.
    VAULT_ROTATION_ATOMIC_ROWS: String(randomInt(2) * 50_000),
  });
  for (let killed = 0; killed < kills; ) {
    const child = spawn(process.execPath, [cli, 'rotate', '--old', from, '--new', to], { env: environment(), stdio: 'ignore' });
    const timer = setTimeout(() => child.kill('SIGKILL'), randomInt(Math.ceil(mostMs)));
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
    clearTimeout(timer);
    if (signal === null) {
      expect(code).toBe(0);
      completed += 1;
      mostMs *= life.afterEnd;
      [from, to] = [to, from];
      continue;
    }
    killed += 1;
    mostMs *= life.afterKill;
    // The lease of the dead is let run out at once, where the run came so far as to make its table.
    await gateway.run('UPDATE vault_rotation_lease SET expires_at = 0').catch(() => undefined);
    if (killed % checkEvery === 0) expect(await lostRows(gateway, [keyA, keyB]), `after kill ${killed}`).toEqual([]);
  }
  expect(completed).toBeGreaterThan(0);
  const last = await runCli(['rotate', '--old', from, '--new', to], environment());
  expect([last.code, last.stderr]).toEqual([0, '']);
  expect(await lostRows(gateway, [to])).toEqual([]);
});
