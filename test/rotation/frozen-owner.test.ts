/** An owner that was frozen, and wakes after another has taken its rotation over, writes nothing. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import type { GatewayDatabase } from '../support/gateway.ts';
import { runCli } from '../support/process.ts';
import { keyA, keyB, temporaryDatabase } from '../support/vault.ts';

const script = fileURLToPath(new URL('../support/rotator.mjs', import.meta.url));
const rows = 300;

/** A process that rotates, and freezes before that write. */
async function frozenBefore(ordinal: number, url: string, atomicRows: number): Promise<ChildProcess> {
  const child = spawn(process.execPath, [script, url, String(atomicRows), 'freeze', String(ordinal)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString('utf8')));
  let hasEnded = false;
  child.once('exit', () => (hasEnded = true));
  while (!isStopped(child)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    if (hasEnded) throw new Error(`It ended before write ${ordinal}: ${output}`);
  }
  return child;
}

/** The third field of a process's status is T once it is stopped. */
function isStopped({ pid }: ChildProcess): boolean {
  try {
    return / T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/\(.*\)/, ''));
  } catch {
    return false; // It has ended.
  }
}

async function everything(gateway: GatewayDatabase): Promise<unknown> {
  const tables = ['api_keys', 'vault_active_key', 'vault_rotations', 'vault_rotation_lease'];
  return Promise.all(tables.map((table) => gateway.rows(table)));
}

const rotation = (url: string, atomicRows: number, oldKey: string, newKey: string) =>
  runCli(['rotate', '--old', oldKey, '--new', newKey], {
    DATABASE_URL: url,
    NODE_ENV: 'production',
    VAULT_ROTATION_ATOMIC_ROWS: String(atomicRows),
  });

it.runIf(process.platform === 'linux').each([
  ['the switch in one commit', 10_000, 3],
  ['the switch before the chunks', 100, 3],
  ['a chunk', 100, 4],
  ['the end', 10_000, 5],
])('whose next write is %s changes nothing after a takeover, nor after a rotation back', async (_name, atomicRows, ordinal) => {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  await rotation(url, atomicRows, keyA, keyB);
  await rotation(url, atomicRows, keyB, keyA);
  const frozen = await frozenBefore(ordinal, url, atomicRows);
  await gateway.run('UPDATE vault_rotation_lease SET expires_at = 0');
  expect((await rotation(url, atomicRows, keyA, keyB)).code).toBe(0);
  // The table is again as the frozen process knew it, key by key: only the fence tells that its time is over.
  expect((await rotation(url, atomicRows, keyB, keyA)).code).toBe(0);
  const before = await everything(gateway);
  const ended = once(frozen, 'exit');
  frozen.kill('SIGCONT');
  expect((await ended)[0]).not.toBe(0);
  expect(await everything(gateway)).toEqual(before);
});
