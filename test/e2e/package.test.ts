/** The command line as it is installed: from the packed package, by `npx`, on a terminal and in a pipe. */

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runCli, runCommand } from '../support/process.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const colour = `${String.fromCharCode(27)}[`;

/** A folder in which the packed package is installed, with this checkout's dependencies. */
function installPacked(): string {
  const folder = temporaryFolder();
  execFileSync('npm', ['pack', '--silent', '--pack-destination', folder], { cwd: root });
  execFileSync('sh', ['-c', 'tar -xzf provara-vault-*.tgz'], { cwd: folder });
  const installed = join(folder, 'node_modules/provara-vault');
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true });
  renameSync(join(folder, 'package'), installed);
  symlinkSync(join(root, 'node_modules'), join(installed, 'node_modules'));
  chmodSync(join(installed, 'dist/cli.js'), 0o755);
  symlinkSync('../provara-vault/dist/cli.js', join(folder, 'node_modules/.bin/provara-vault'));
  writeFileSync(join(folder, 'package.json'), '{"name":"sample","private":true}');
  return folder;
}

describe('the packed package', () => {
  it('runs by npx: its version, a fresh key, and a rotation of a database', async () => {
    const folder = installPacked();
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'row-1' });
    const environment = { HOME: folder, DATABASE_URL: url, PROVARA_MASTER_KEY_OLD: keyA, PROVARA_MASTER_KEY_NEW: keyB };
    const npx = (...args: string[]) => runCommand('npx', ['--no-install', 'provara-vault', ...args], environment, folder);
    expect((await npx('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect((await npx('generate')).stdout).toMatch(/^[0-9a-f]{64}\n$/);
    const { code, stdout } = await npx('rotate');
    expect([code, stdout.split('\n')[0]]).toEqual([0, '[rotate] rotated 1 of 1 row(s).']);
  });
});

describe('every command', () => {
  it('answers one line of JSON with --json, also where it fails', async () => {
    const { url } = await temporaryDatabase();
    const vault = await startVault(url);
    await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value' });
    await vault.close();
    const folder = temporaryFolder();
    const environment = { NODE_ENV: 'production', DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_OLD: keyA };
    const file = join(folder, 'vault.ndjson');
    const json = async (args: string[], settings = {}): Promise<Record<string, unknown>> => {
      const { stdout } = await runCli([...args, '--json'], { ...environment, ...settings }, folder);
      expect(stdout.split('\n')).toHaveLength(2);
      return JSON.parse(stdout) as Record<string, unknown>;
    };
    expect(await json(['generate'])).toEqual({ master_key: expect.any(String), key_id: expect.stringMatching(/^[0-9a-f]{16}$/) });
    expect(await json(['verify'])).toMatchObject({ rows_scanned: 1, rows_failed: 0 });
    expect(await json(['status'])).toMatchObject({ active_key_id: keyIdA });
    expect(await json(['snapshot', '--out', file])).toMatchObject({ path: file, key_ids: [keyIdA], rows_unopened: 0 });
    expect(await json(['snapshot', '--check', file])).toMatchObject({ rows: 1, rows_by_key_id: { [keyIdA]: 1 } });
    expect(await json(['restore', file])).toEqual({ restored: 0, kept: 1, left: 0, before: null });
    expect(await json(['rotate'], { PROVARA_MASTER_KEY_NEW: keyB })).toMatchObject({ rotation: { to_key_id: keyIdB } });
    expect(await json(['snapshot'])).toMatchObject({ error: { type: 'validation_error' } });
    expect(await json(['rotate'])).toMatchObject({
      error: { type: 'validation_error', message: expect.stringContaining('--new') },
    });
    expect(await json(['rotate', '--no-such-flag'])).toMatchObject({ error: { type: 'validation_error' } });
    expect(await json(['rotate', '--skip', ','])).toMatchObject({ error: { message: expect.stringContaining('--skip') } });
    expect(await json(['restore', join(folder, 'none')])).toMatchObject({ error: { type: 'validation_error' } });
  });

  it('is coloured on a terminal alone, and never with NO_COLOR', async () => {
    const folder = temporaryFolder();
    const command = `${process.execPath} ${join(root, 'dist/cli.js')} verify`;
    const onTerminal = (settings = {}) =>
      runCommand('script', ['-qec', command, '/dev/null'], { TERM: 'xterm', ...settings }, folder);
    expect((await onTerminal()).stdout).toContain(`${colour}31merror: `);
    const plain = (await onTerminal({ NO_COLOR: '1' })).stdout;
    expect(plain).toContain('error: ');
    expect(plain).not.toContain(colour);
    expect((await runCli(['verify'], {}, folder)).stderr).toMatch(/^error: /);
  });
});
