/** The README's terminal session does what the README says, word for word. */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { runCommand, startServer } from '../support/process.ts';
import { temporaryFolder } from '../support/vault.ts';

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
const blocks = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = '']) => block);
const root = fileURLToPath(new URL('../..', import.meta.url));

it('goes from npm start to a rotated table when typed as it stands', async () => {
  const folder = temporaryFolder();
  const server = await startServer({ PORT: '0' }, folder);
  const [, session = '', commandLine = ''] = blocks;
  expect(session).toContain('http://127.0.0.1:4100');
  const typed =
    session.replace('http://127.0.0.1:4100', server.origin) +
    commandLine.replace('npm run key:rotate --', `node ${root}dist/cli.js rotate`);
  const { code, stdout, stderr } = await runCommand('/bin/sh', ['-euc', typed], { HOME: folder, INIT_CWD: folder }, folder);
  expect([code, stderr]).toEqual([0, '']);
  for (const promised of ['DRY RUN — scanned 1 row(s). Every row decrypts cleanly with the old key.', 'rotated 1 of 1 row(s).']) {
    expect(readme).toContain(promised);
    expect(stdout).toContain(promised);
  }
  expect(stdout).toContain('"value":"sample-provider-key-0001"');
  expect(stdout).toContain('"state":"active"');
});
