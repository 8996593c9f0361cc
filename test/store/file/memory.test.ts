/** Memory stays flat however long the vault runs. */

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../../support/vault.ts';

const script = fileURLToPath(new URL('../../support/steady.mjs', import.meta.url));

it('over a million reads and a hundred thousand writes it grows by less than 50 MiB after the warm-up', {
  timeout: 600_000,
}, async () => {
  const url = `file:${join(temporaryFolder(), 'vault.db')}`;
  const { stdout } = await promisify(execFile)(process.execPath, [script, url, '1000000', '100000']);
  expect(Number(stdout)).toBeLessThan(50);
});
