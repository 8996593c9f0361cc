/** What the service writes while it runs: a line of JSON for each request in production, readable lines on a terminal. */

import { execFile, execFileSync, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fetch } from 'undici';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startServer } from '../support/process.ts';
import { freePort } from '../support/sqld.ts';
import { environmentFor, keyA, keyIdA, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const patience = { timeout: 30_000 };
/** For thousands of requests, on a machine that is busy with other tests. */
const longPatience = { timeout: 180_000 };
const gatewayToken = 'sample-4f1c9a7be02d85-gateway';
const adminToken = 'sample-93ce5ab07d1f62-operator';
const production = {
  NODE_ENV: 'production',
  VAULT_GATEWAY_TOKENS: `gateway-1:${gatewayToken}`,
  VAULT_ADMIN_TOKENS: `operator:${adminToken}`,
};
const root = fileURLToPath(new URL('../..', import.meta.url));

describe('in production', () => {
  it('every request is one line of JSON, with the id that the gateway gave it, and with no value, name or query', async () => {
    const { url } = await temporaryDatabase();
    const server = await startServer(environmentFor(url, production));
    const call = (id: string, path: string, body?: object): Promise<unknown> =>
      fetch(server.origin + path, {
        method: body === undefined ? 'GET' : 'POST',
        headers: { authorization: `Bearer ${gatewayToken}`, 'x-request-id': id, 'content-type': 'application/json' },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
    await call('gateway-0001', '/v1/api-keys', {
      tenant_id: 'sample-tenant',
      name: 'sample-name',
      provider: 'openai',
      value: 'sample-value-0001',
    });
    await call('gateway-0002', '/v1/api-keys?tenant_id=sample-tenant');
    await call('gateway-0003', '/v1/api-keys/decrypt', { name: 'sample-absent' });
    await call('gateway-0004', '/no/such/sample-path');
    await call('gateway-0005', '/v1/%zz');
    expect(await sendGarbage(server.origin)).toMatch(/^HTTP\/1\.1 400 /);
    await expect.poll(() => requestLines(server.output()).length, patience).toBe(6);

    const lines = requestLines(server.output());
    expect(lines[0]).toMatchObject({
      level: 30,
      request_id: 'gateway-0001',
      method: 'POST',
      route: '/v1/api-keys',
      status: 201,
      error: null,
      role: 'gateway',
      token: 'gateway-1',
      duration_ms: expect.any(Number),
    });
    expect(lines.slice(1).map(({ request_id, route, status, error }) => [request_id, route, status, error])).toEqual([
      ['gateway-0002', '/v1/api-keys', 200, null],
      ['gateway-0003', '/v1/api-keys/decrypt', 404, 'not_found'],
      ['gateway-0004', null, 404, 'not_found'],
      ['gateway-0005', null, 400, 'validation_error'],
      [expect.stringMatching(/^[0-9a-f-]{36}$/), null, 400, 'validation_error'],
    ]);
    expect(server.output()).not.toMatch(/sample-(tenant|name|value|absent|path)|4f1c9a7be02d85/);
  });

  it('a request whose caller goes away before the answer is whole has status 499', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.fill(keyA, 30_000);
    const server = await startServer(environmentFor(url, production));
    const leaving = new AbortController();
    const headers = { authorization: `Bearer ${adminToken}`, 'x-request-id': 'operator-0001' };
    const { status, body } = await fetch(`${server.origin}/admin/snapshot`, { headers, signal: leaving.signal });
    expect(status).toBe(200);
    await body?.getReader().read();
    leaving.abort();
    await expect.poll(() => requestLines(server.output()).length, patience).toBe(1);
    expect(requestLines(server.output())[0]).toMatchObject({
      request_id: 'operator-0001',
      route: '/admin/snapshot',
      status: 499,
    });

    await sendHalf(server.origin, 'operator-0002');
    await expect.poll(() => requestLines(server.output()).length, patience).toBe(2);
    expect(requestLines(server.output())[1]).toMatchObject({ request_id: 'operator-0002', route: '/admin/verify', status: 499 });
  });

  it('a key that is due for rotation is said at the start', async () => {
    const { url, gateway } = await temporaryDatabase();
    const first = await startServer(environmentFor(url, production));
    await first.stop();
    await gateway.run('UPDATE vault_master_keys SET activated_at = 1');
    const second = await startServer(environmentFor(url, production));
    await expect
      .poll(() => jsonLines(second.output()).some(({ key_id, due_days }) => key_id === keyIdA && due_days === 365), patience)
      .toBe(true);
  });
});

describe('on a terminal', () => {
  it('the lines are readable outside production, coloured unless NO_COLOR is set, and JSON in production', async () => {
    const colour = `${String.fromCharCode(27)}[`;
    const [readable, plain, json] = await Promise.all([onTerminal({}), onTerminal({ NO_COLOR: '1' }), onTerminal(production)]);
    expect(readable).toMatch(/INFO.*Server listening at http/);
    expect(readable).toContain(colour);
    expect(plain).toContain('Server listening');
    expect(plain).not.toContain(colour);
    expect(jsonLines(json).some(({ msg }) => /listening/.test(String(msg)))).toBe(true);
  });
});

function jsonLines(output: string): Record<string, unknown>[] {
  return output
    .split(/\r?\n/)
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

function requestLines(output: string): Record<string, unknown>[] {
  return jsonLines(output).filter(({ msg }) => msg === 'request');
}

/** Sends the head of a request, and goes once the vault asks for its body. */
function sendHalf(origin: string, id: string): Promise<void> {
  const head = [
    'POST /admin/verify HTTP/1.1',
    'Host: vault',
    `Authorization: Bearer ${adminToken}`,
    `X-Request-Id: ${id}`,
    'Content-Type: application/json',
    'Content-Length: 100',
    'Expect: 100-continue',
  ];
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(origin).port), '127.0.0.1', () => socket.write(`${head.join('\r\n')}\r\n\r\n`));
    socket.once('data', () => socket.destroy());
    socket.on('close', () => resolve()).on('error', reject);
  });
}

/** With its standard output sent to a path. Resolves once it is ready. */
async function startOn(output: string, settings: Record<string, string> = { VAULT_AUDIT_LOG: `${temporaryFolder()}/audit.log` }) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.insert(keyA, { id: 'sample-row' });
  const port = await freePort();
  const environment = environmentFor(url, { ...production, PORT: String(port), ...settings });
  const child = spawn('/bin/sh', ['-c', 'exec "$0" dist/server.js > "$1"', process.execPath, output], {
    cwd: root,
    env: { PATH: process.env.PATH, ...environment },
    stdio: 'ignore',
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const call = async (path: string, token = gatewayToken, body?: object): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'x-request-id': 'sample-'.padEnd(128, 'x'),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    return { status: response.status, text: await response.text() };
  };
  await expect
    .poll(
      () =>
        call('/ready').then(
          ({ status }) => status,
          () => 0,
        ),
      { timeout: 20_000 },
    )
    .toBe(200);
  return { call, ended, stop: () => child.kill('SIGTERM') };
}

describe('on a full disk', () => {
  it(
    'the log keeps nobody waiting: what it may serve is served, lines that find no room are counted, and a stop stops it',
    longPatience,
    async () => {
      const { call, ended, stop } = await startOn('/dev/full');
      // A mebibyte of lines and more.
      const calls = Array.from({ length: 10 }, async () => {
        for (let count = 0; count < 450; count += 1) expect((await call('/none')).status).toBe(404);
      });
      await Promise.all(calls);
      expect((await call('/v1/api-keys/decrypt', gatewayToken, { name: 'sample-row' })).status).toBe(200);
      const [, dropped] = /^provara_vault_log_lines_dropped_total (\d+)$/m.exec((await call('/metrics', adminToken)).text) ?? [];
      expect(Number(dropped)).toBeGreaterThan(0);
      stop();
      expect(await ended).toBe(0);
    },
  );

  it('a key is opened only with its record: where the audit is on standard output too, none is', patience, async () => {
    const { call, ended, stop } = await startOn('/dev/full', { VAULT_AUDIT_LOG: 'stdout' });
    expect((await call('/v1/api-keys/decrypt', gatewayToken, { name: 'sample-row' })).status).toBe(503);
    expect((await call('/health')).status).toBe(200);
    stop();
    expect(await ended).toBe(0);
  });
});

describe('a pipe', () => {
  it('whose reader stalls keeps no request waiting, and no stop', patience, async () => {
    const pipe = join(temporaryFolder(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reader = spawn('/bin/sh', ['-c', 'exec sleep 60 < "$0"', pipe], { stdio: 'ignore' });
    onTestFinished(() => void reader.kill('SIGKILL'));
    const { call, ended, stop } = await startOn(pipe);
    const calls = Array.from({ length: 10 }, async () => {
      for (let count = 0; count < 100; count += 1) expect((await call('/none')).status).toBe(404);
    });
    await Promise.all(calls);
    stop();
    expect(await ended).toBe(0);
  });

  it('whose reader has gone gets the log again from the next one', patience, async () => {
    const pipe = join(temporaryFolder(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const read = () => {
      const reader = spawn('cat', [pipe], { stdio: ['ignore', 'pipe', 'ignore'] });
      onTestFinished(() => void reader.kill('SIGKILL'));
      return reader;
    };
    const first = read();
    const { call, ended, stop } = await startOn(pipe);
    first.kill('SIGKILL');
    await new Promise((resolve) => first.once('exit', resolve));
    for (let count = 0; count < 20; count += 1) expect((await call('/none')).status).toBe(404);
    const second = read();
    let text = '';
    second.stdout.on('data', (chunk) => {
      text += chunk;
    });
    await expect
      .poll(async () => {
        await call('/none');
        return text.split('\n').filter((line) => line.includes('"status":404')).length;
      })
      .toBeGreaterThanOrEqual(20);
    stop();
    expect(await ended).toBe(0);
  });
});

function sendGarbage(origin: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(origin).port), '127.0.0.1', () => socket.write('NO HTTP AT ALL\r\n\r\n'));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('end', () => resolve(text)).on('error', reject);
  });
}

/** Ctrl-C, as a terminal sends it. */
const interrupt = String.fromCharCode(3);

/** What the service writes to a terminal from its start to its stop, as `script` records it. */
async function onTerminal(settings: Record<string, string>): Promise<string> {
  const { url } = await temporaryDatabase();
  const environment = { PATH: process.env.PATH, TERM: 'xterm', ...environmentFor(url, settings) };
  return new Promise((resolve) => {
    const child = execFile('script', ['-qec', `${process.execPath} dist/server.js`, '/dev/null'], {
      cwd: root,
      env: environment,
    });
    let text = '';
    child.stdout?.on('data', (chunk) => {
      if (!text.includes('listening at') && (text + chunk).includes('listening at')) child.stdin?.write(interrupt);
      text += chunk;
    });
    child.once('exit', () => resolve(text));
  });
}
