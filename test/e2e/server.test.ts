/** The service as a process: how it starts, what it refuses to start with, and how it stops. */

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { describe, expect, it } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { runServer, startServer } from '../support/process.ts';
import { adminToken, caller, environmentFor, gatewayToken, keyB, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const shell = (command: string): string => execFileSync('/bin/sh', ['-c', command], { encoding: 'utf8' });
const readSetting = (folder: string, name: string): string =>
  new RegExp(`^${name}=(.*)$`, 'm').exec(readFileSync(join(folder, 'data/dev.env'), 'utf8'))?.[1] ?? '';

describe('in an empty folder with an empty environment', () => {
  it('the vault makes its keys, keeps them to itself, and prints a curl line that works when pasted', async () => {
    const folder = join(temporaryFolder(), "whoever's own");
    mkdirSync(folder);
    const server = await startServer({ PORT: '0' }, folder);
    await until(async () => server.output().includes('curl'));
    const [, curl = ''] = /\n {2}(curl .*)\n/.exec(server.output()) ?? [];
    expect(JSON.parse(shell(curl))).toMatchObject({ updated: false, key: { name: 'OPENAI_API_KEY' } });
    expect(JSON.parse(shell(curl))).toMatchObject({ updated: true });
    expect(statSync(join(folder, 'data/dev.env')).mode & 0o777).toBe(0o600);
    for (const name of ['PROVARA_MASTER_KEY', 'PROVARA_MASTER_KEY_NEW', 'VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS']) {
      const secret = readSetting(folder, name).replace(/^dev:/, '');
      expect(secret.length).toBeGreaterThan(20);
      expect(server.output()).not.toContain(secret);
    }
  });

  it('its curl line names an IPv6 address in quotes: zsh takes bare brackets for a pattern', async () => {
    const folder = temporaryFolder();
    const server = await startServer({ PORT: '0', HOST: '::1' }, folder);
    await until(async () => server.output().includes('curl'));
    const [, curl = '', url = ''] = /\n {2}(curl -s '(.*?)' .*)\n/.exec(server.output()) ?? [];
    expect(url).toMatch(/^http:\/\/\[::1]:\d+\/v1\/api-keys$/);
    expect(JSON.parse(shell(curl))).toMatchObject({ updated: false });
  });

  it('what it makes, the database among it, is for nobody else to read', async () => {
    const folder = temporaryFolder();
    await startServer({ PORT: '0' }, folder);
    for (const name of ['vault.db', 'dev.env']) expect(statSync(join(folder, 'data', name)).mode & 0o077, name).toBe(0);
  });

  it('a rotation can be tried at once, and again after each restart, and every row stays readable', async () => {
    const folder = temporaryFolder();
    const keys: string[] = [];
    for (let round = 0; round < 3; round += 1) {
      const server = await startServer({ PORT: '0' }, folder);
      const gateway = caller(server.origin, readSetting(folder, 'VAULT_GATEWAY_TOKENS').slice('dev:'.length));
      const admin = caller(server.origin, readSetting(folder, 'VAULT_ADMIN_TOKENS').slice('dev:'.length));
      await gateway('POST', '/v1/api-keys', { name: `K${round}`, provider: 'openai', value: `sample-${round}` });
      const { body } = await admin('POST', '/admin/rotate/execute');
      expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: round + 1 });
      for (let index = 0; index <= round; index += 1) {
        expect((await gateway('POST', '/v1/api-keys/decrypt', { name: `K${index}` })).body.key.value).toBe(`sample-${index}`);
      }
      keys.push(readSetting(folder, 'PROVARA_MASTER_KEY'));
      expect(await server.stop()).toBe(0);
    }
    expect(new Set(keys).size).toBe(3);
    for (const key of keys) expect(readFileSync(join(folder, 'data/dev.env'), 'utf8')).toContain(key);
  });
});

describe('in production', () => {
  it('everything that is missing is named at once, and the process exits', async () => {
    const { code, stderr } = await runServer({ NODE_ENV: 'production' }, temporaryFolder());
    expect(code).toBe(1);
    for (const name of ['DATABASE_URL', 'VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS']) expect(stderr).toContain(name);
    expect(stderr).toContain('PROVARA_MASTER_KEY is required for API key encryption');
  });

  it('an address that it cannot listen on is named by its settings', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startServer(environmentFor(url));
    for (const settings of [{ HOST: '127.0.0.1', PORT: new URL(origin).port }, { HOST: '192.0.2.1' }]) {
      const { code, stderr } = await runServer(environmentFor(url, settings));
      expect([code, stderr]).toEqual([
        1,
        expect.stringMatching(/^The vault cannot start: It cannot listen \(E[A-Z]+\): check PORT and HOST\.\n$/),
      ]);
    }
  });

  it('everything that is malformed is named at once and never by its value', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'a-directory'));
    const { code, stderr } = await runServer({
      NODE_ENV: 'production',
      DATABASE_URL: `file:${folder}/a-directory`,
      PROVARA_MASTER_KEY: 'sample-secret-passphrase',
      PROVARA_MASTER_KEY_FILE: `${folder}/sample-secret-file`,
      VAULT_GATEWAY_TOKENS: 'sample-secret-without-name',
      VAULT_ADMIN_TOKENS: 'operator:sample-secret-token',
      PORT: 'sample-secret-port',
      LOG_LEVEL: 'sample-secret-level',
    });
    expect(code).toBe(1);
    for (const name of [
      'DATABASE_URL names a directory',
      'PROVARA_MASTER_KEY_FILE',
      'VAULT_GATEWAY_TOKENS',
      'PORT',
      'LOG_LEVEL',
    ]) {
      expect(stderr).toContain(name);
    }
    expect(stderr).not.toContain('sample-secret');
    expect(stderr).not.toContain('VAULT_ADMIN_TOKENS');
  });

  it('no key is made: rows under a key that is not given keep the vault from being ready', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyB, { id: 'row' });
    const server = await startServer(environmentFor(url, { NODE_ENV: 'production' }));
    expect((await fetch(`${server.origin}/ready`)).status).toBe(503);
    expect((await fetch(`${server.origin}/health`)).status).toBe(200);
  });
});

describe('outside production', () => {
  it('no master key is made for a database whose rows it did not write', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyB, { id: 'row' });
    const { code, stderr } = await runServer({ DATABASE_URL: url, PORT: '0' }, temporaryFolder());
    expect(code).toBe(1);
    expect(stderr).toContain('PROVARA_MASTER_KEY is required for API key encryption');
  });

  it('no master key is made for a remote database', async () => {
    const { code, stderr } = await runServer({ DATABASE_URL: 'http://127.0.0.1:9', PORT: '0' }, temporaryFolder());
    expect(code).toBe(1);
    expect(stderr).toContain('PROVARA_MASTER_KEY is required for API key encryption');
  });
});

describe('SIGTERM', () => {
  // The second is longer than what a plugin of Fastify is given to end.
  it.each([0, 10_500])(
    'lets a request in flight finish after %i ms, takes no new connection, and exits with 0',
    async (lastsMs) => {
      const { url, gateway: database } = await temporaryDatabase();
      await database.insert('a1'.repeat(32), { id: 'row', name: 'K', value: 'sample-value' });
      const server = await startServer(environmentFor(url));
      const { port } = new URL(server.origin);
      const body = JSON.stringify({ name: 'K' });
      const head = [
        'POST /v1/api-keys/decrypt HTTP/1.1',
        'Host: vault',
        `Authorization: Bearer ${gatewayToken}`,
        'Content-Type: application/json',
        `Content-Length: ${body.length}`,
      ].join('\r\n');
      const socket = connect(Number(port), '127.0.0.1');
      let answer = '';
      socket.on('data', (chunk) => {
        answer += chunk;
      });
      const ended = new Promise((resolve) => socket.once('close', resolve));
      socket.write(`${head}\r\n\r\n${body.slice(0, 3)}`);
      await until(async () => server.output().includes('listening') && (await fetch(`${server.origin}/health`)).status === 200);
      const exit = server.stop('SIGTERM');
      await until(async () => server.output().includes('stopping'));
      await until(async () => (await fetch(`${server.origin}/health`).catch(() => null)) === null);
      await sleep(lastsMs);
      socket.write(body.slice(3));
      await ended;
      expect(answer).toMatch(/^HTTP\/1\.1 200 /);
      expect(answer).toContain('sample-value');
      expect(await exit).toBe(0);
      expect(server.output()).toContain('"msg":"stopped"');
      expect(server.output()).not.toContain('"level":50');
    },
  );

  it('loses no request of callers that keep their connections', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert('a1'.repeat(32), { id: 'row', name: 'K' });
    const server = await startServer(environmentFor(url));
    const agent = new Agent({ connections: 10, pipelining: 1 });
    let answered = 0;
    const failures: unknown[] = [];
    const callers = Array.from({ length: 10 }, async () => {
      for (;;) {
        const answer = await request(`${server.origin}/v1/api-keys/decrypt`, {
          method: 'POST',
          headers: { authorization: `Bearer ${gatewayToken}`, 'content-type': 'application/json' },
          body: '{"name":"K"}',
          dispatcher: agent,
        }).catch((error: Error & { code?: string }) => {
          if (error.code !== 'ECONNREFUSED') failures.push(error);
          return null;
        });
        if (answer === null) return;
        await answer.body.dump();
        if (answer.statusCode === 200) answered += 1;
        else failures.push(answer.statusCode);
      }
    });
    await until(async () => answered > 200);
    expect(await server.stop('SIGTERM')).toBe(0);
    await Promise.all(callers);
    expect(failures).toEqual([]);
  });

  it('and what npm hands on of it is one stop, which ends as it should; a later signal ends it at once', async () => {
    const { url } = await temporaryDatabase();
    const first = await startServer(environmentFor(url));
    first.child.kill('SIGINT');
    expect(await first.stop('SIGTERM')).toBe(0);
    const second = await startServer(environmentFor(url));
    const socket = connect(Number(new URL(second.origin).port), '127.0.0.1');
    const head = `POST /v1/api-keys HTTP/1.1\r\nHost: sample\r\nAuthorization: Bearer ${gatewayToken}\r\n`;
    socket.write(`${head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{`);
    socket.on('error', () => undefined);
    await sleep(200);
    second.child.kill('SIGTERM');
    await sleep(1_500);
    expect(await second.stop('SIGTERM')).toBe(143);
  });

  it('takes the replica off the record, so that a rotation does not wait for it', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const server = await startServer(environmentFor(url));
    const { body } = await caller(server.origin, adminToken)('GET', '/admin/master-keys');
    expect(body.replicas).toHaveLength(1);
    await server.stop('SIGTERM');
    expect(await database.rows('vault_replicas')).toEqual([]);
  });

  it('leaves every key in the file itself, for whoever copies that without its log', async () => {
    const path = join(temporaryFolder(), 'vault.db');
    const server = await startServer(environmentFor(`file:${path}`));
    const gateway = caller(server.origin, gatewayToken);
    for (const name of ['K', 'L']) await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: 'sample-value' });
    expect(await server.stop('SIGTERM')).toBe(0);
    copyFileSync(path, `${path}-copy`);
    const copy = new Database({ url: `file:${path}-copy` });
    expect(await copy.read('SELECT name FROM api_keys ORDER BY name')).toEqual([{ name: 'K' }, { name: 'L' }]);
    await copy.close();
  });

  it('of a vault whose file another has replaced leaves both as they are, and the next start serves the other', async () => {
    const path = join(temporaryFolder(), 'vault.db');
    const settings = environmentFor(`file:${path}`);
    const store = async ({ origin }: { origin: string }, name: string) =>
      (await caller(origin, gatewayToken)('POST', '/v1/api-keys', { name, provider: 'openai', value: 'sample-value' })).status;
    const names = async (file: string) => {
      const database = new Database({ url: `file:${file}` });
      const rows = await database.read('SELECT name FROM api_keys ORDER BY name');
      await database.close();
      return rows.map(({ name }) => name);
    };
    const first = await startServer(settings);
    expect(await store(first, 'before')).toBe(201);
    expect(await first.stop('SIGTERM')).toBe(0);
    copyFileSync(path, `${path}-backup`);
    const second = await startServer(settings);
    expect(await store(second, 'after')).toBe(201);
    renameSync(path, `${path}-aside`);
    renameSync(`${path}-backup`, path);
    expect(await store(second, 'lost')).toBe(503);
    expect(await second.stop('SIGTERM')).toBe(0);
    const third = await startServer(settings);
    expect(await store(third, 'later')).toBe(201);
    expect(await third.stop('SIGTERM')).toBe(0);
    expect([await names(path), await names(`${path}-aside`)]).toEqual([
      ['before', 'later'],
      ['after', 'before'],
    ]);
  });
});

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('It did not come to pass in time.');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
