/** Memory stays flat however long the vault runs. */

import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it, onTestFinished } from 'vitest';
import { temporaryFolder } from '../../support/vault.ts';

/** Those that production runs with. */
const [, command = '[]'] = /^CMD (\[.*\])$/m.exec(readFileSync(new URL('../../../Dockerfile', import.meta.url), 'utf8')) ?? [];
const flags = (JSON.parse(command) as string[]).filter((word) => word.startsWith('--'));
const script = fileURLToPath(new URL('../../support/steady.mjs', import.meta.url));

/** In memory where there is room: what is measured is the process, and a hundred thousand syncs of a disk take minutes. */
function fastFolder(): string {
  const inMemory = '/dev/shm';
  if (!existsSync(inMemory)) return temporaryFolder();
  const { bavail, bsize } = statfsSync(inMemory);
  if (bavail * bsize < 1_000_000_000) return temporaryFolder();
  const folder = mkdtempSync(join(inMemory, 'provara-vault-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

it('over a million reads and a hundred thousand writes it grows by less than 50 MiB after the warm-up', {
  timeout: 600_000,
}, async () => {
  const url = `file:${join(fastFolder(), 'vault.db')}`;
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, script, url, '1000000', '100000']);
  expect(Number(stdout)).toBeLessThan(50);
});
