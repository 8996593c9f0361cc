/** Memory stays flat however long the vault runs. */

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../../support/vault.ts';

/** Those that production runs with. */
const [, command = '[]'] = /^CMD (\[.*\])$/m.exec(readFileSync(new URL('../../../Dockerfile', import.meta.url), 'utf8')) ?? [];
const flags = (JSON.parse(command) as string[]).filter((word) => word.startsWith('--'));
const script = fileURLToPath(new URL('../../support/steady.mjs', import.meta.url));

it('over a million reads and a hundred thousand writes it grows by less than 50 MiB after the warm-up', {
  timeout: 600_000,
}, async () => {
  const url = `file:${join(temporaryFolder(), 'vault.db')}`;
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, script, url, '1000000', '100000']);
  expect(Number(stdout)).toBeLessThan(50);
});
