/** Clients that are slow, endless, ambiguous or many cost a connection at most: nobody else is kept waiting or answered in their place. */

import { readdirSync, readlinkSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { gatewayToken, startVault, temporaryDatabase } from '../support/vault.ts';

async function start(options: Parameters<typeof startVault>[2] = {}) {
  const { url } = await temporaryDatabase();
  return startVault(url, {}, options);
}

interface Connection {
  readonly socket: Socket;
  /** All that has come so far. */
  readonly received: () => string;
  /** All that came until the server ended the connection. */
  readonly ended: Promise<string>;
}

async function open(origin: string): Promise<Connection> {
  const socket = connect(Number(new URL(origin).port), '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk) => {
    text += chunk;
  });
  const ended = new Promise<string>((resolve) => {
    socket.on('close', () => resolve(text)).on('error', () => undefined);
  });
  await new Promise<void>((resolve, reject) => void socket.once('connect', resolve).once('error', reject));
  return { socket, received: () => text, ended };
}

async function send(origin: string, bytes: string): Promise<string> {
  const { socket, ended } = await open(origin);
  socket.write(bytes);
  return ended;
}

const statusLines = (text: string): string[] => text.match(/HTTP\/1\.1 \d{3}/g) ?? [];
const authorization = `Authorization: Bearer ${gatewayToken}\r\n`;
const host = 'Host: vault\r\n';
const json = 'Content-Type: application/json\r\n';
const post = (headers: string, body: string) =>
  `POST /v1/api-keys/decrypt HTTP/1.1\r\n${host}${authorization}${json}${headers}\r\n${body}`;
const smuggled = `GET /v1/api-keys/status HTTP/1.1\r\n${host}${authorization}\r\n`;

/** Of a file descriptor; empty where it is closed by now. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function expectRefusal(text: string): void {
  expect(statusLines(text)).toEqual(['HTTP/1.1 400']);
  const { error } = JSON.parse(text.split('\r\n\r\n')[1] ?? '');
  expect(error).toMatchObject({ type: 'validation_error', request_id: expect.any(String) });
}

describe('a slow client', () => {
  it('has a bounded time for its headers, and more to be idle than clients keep a connection', async () => {
    const { server } = (await start()).app;
    expect(server.headersTimeout).toBeGreaterThan(0);
    expect(server.headersTimeout).toBeLessThanOrEqual(20_000);
    expect(server.keepAliveTimeout).toBeGreaterThan(60_000);
  });

  it('that drips its headers is answered and cut off, and does not keep another waiting', async () => {
    const { origin, app, gateway } = await start();
    app.server.headersTimeout = 1_000;
    const { socket, ended } = await open(origin);
    socket.write('GET /health HTTP/1.1\r\n');
    const drip = setInterval(() => socket.writable && socket.write('X-Drip: 1\r\n'), 100);
    onTestFinished(() => clearInterval(drip));
    expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
    const text = await ended;
    expectRefusal(text);
    expect(text).toContain('did not arrive in time');
  });

  it('that says nothing at all is cut off', async () => {
    const { origin, app } = await start();
    app.server.headersTimeout = 1_000;
    expectRefusal(await (await open(origin)).ended);
  });
});

describe('an endless body', () => {
  it.each([
    ['in chunks', 'Transfer-Encoding: chunked\r\n', `10000\r\n${'x'.repeat(0x10000)}\r\n`],
    ['of a length that is far too large', `Content-Length: ${10 ** 12}\r\n`, 'x'.repeat(0x10000)],
  ])('%s is refused once it is more than 8 MiB, and its connection ended', async (_, headers, chunk) => {
    const { origin, gateway } = await start();
    const { socket, ended, received } = await open(origin);
    let sent = 0;
    const pump = (): void => {
      while (socket.writable && !socket.writableNeedDrain && sent < 64 * 1024 * 1024) {
        sent += chunk.length;
        socket.write(chunk);
      }
    };
    socket.write(post(headers, ''));
    socket.on('drain', pump);
    pump();
    await expect.poll(received).toMatch(/^HTTP\/1\.1 413 /);
    expect(await ended).toContain('payload_too_large');
    expect(sent).toBeLessThan(64 * 1024 * 1024);
    expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
  });
});

describe('a request whose end two servers could see in two places', () => {
  const length = 'Content-Length: 4\r\n';

  it('is told from one that has a single end, which is answered, and what follows it too', async () => {
    const { origin } = await start();
    const last = smuggled.replace(host, `${host}Connection: close\r\n`);
    expect(statusLines(await send(origin, post(length, `{}  ${last}`)))).toEqual(['HTTP/1.1 400', 'HTTP/1.1 200']);
    expect(statusLines(await send(origin, post('Transfer-Encoding: chunked\r\n', `2\r\n{}\r\n0\r\n\r\n${last}`)))).toEqual([
      'HTTP/1.1 400',
      'HTTP/1.1 200',
    ]);
  });

  it.each([
    ['both a length and chunks', post(`${length}Transfer-Encoding: chunked\r\n`, `0\r\n\r\n${smuggled}`)],
    ['chunks and a length', post(`Transfer-Encoding: chunked\r\n${length}`, `0\r\n\r\n${smuggled}`)],
    ['two lengths', post(`${length}Content-Length: 5\r\n`, `{}  ${smuggled}`)],
    ['two equal lengths', post(`${length}${length}`, `{}  ${smuggled}`)],
    ['a list of lengths', post('Content-Length: 4, 4\r\n', `{}  ${smuggled}`)],
    ['a length with a sign', post('Content-Length: +4\r\n', `{}  ${smuggled}`)],
    ['a length in hex', post('Content-Length: 0x4\r\n', `{}  ${smuggled}`)],
    ['a negative length', post('Content-Length: -1\r\n', smuggled)],
    ['a folded header', post(`Transfer-Encoding:\r\n chunked\r\n${length}`, `{}  ${smuggled}`)],
    ['white space before a colon', post(`Transfer-Encoding : chunked\r\n${length}`, `{}  ${smuggled}`)],
    ['chunks that are not the last encoding', post('Transfer-Encoding: chunked, identity\r\n', `0\r\n\r\n${smuggled}`)],
    ['an encoding nobody knows', post('Transfer-Encoding: xchunked\r\n', `0\r\n\r\n${smuggled}`)],
    ['a size of a chunk that is no number', post('Transfer-Encoding: chunked\r\n', `zz\r\n{}\r\n0\r\n\r\n${smuggled}`)],
    [
      'a size of a chunk that overflows',
      post('Transfer-Encoding: chunked\r\n', `fffffffffffffffff\r\n{}\r\n0\r\n\r\n${smuggled}`),
    ],
    ['more in a chunk than its size', post('Transfer-Encoding: chunked\r\n', `2\r\n{}{}\r\n0\r\n\r\n${smuggled}`)],
    ['a bare carriage return', post(`X-Sample: a\rTransfer-Encoding: chunked\r\n${length}`, `{}  ${smuggled}`)],
    ['a null byte in a header', post(`X-Sample: a\0b\r\n${length}`, `{}  ${smuggled}`)],
  ])('is refused, and what follows it is never answered: %s', async (_, bytes) => {
    const { origin } = await start();
    expectRefusal(await send(origin, bytes));
  });
});

describe('requests sent without waiting for answers', () => {
  it('are answered in their order, the slow ones too', async () => {
    const { origin } = await start();
    const ids = Array.from({ length: 30 }, (_, index) => `pipelined-${index}`);
    const { socket, received } = await open(origin);
    socket.write(
      ids
        .map((id, index) => {
          const path = index % 3 === 0 ? '/ready' : index % 3 === 1 ? '/health' : '/v1/api-keys/status';
          return `GET ${path} HTTP/1.1\r\n${host}${authorization}X-Request-Id: ${id}\r\n\r\n`;
        })
        .join(''),
    );
    const answered = (): string[] => [...received().matchAll(/^x-request-id: (\S+)/gim)].map(([, id = '']) => id);
    await expect.poll(() => answered().length).toBe(ids.length);
    expect(answered()).toEqual(ids);
  });

  it('do not lend one another their token', async () => {
    const { origin } = await start();
    const withToken = `GET /v1/api-keys/status HTTP/1.1\r\n${host}${authorization}\r\n`;
    const without = `GET /v1/api-keys/status HTTP/1.1\r\n${host}Connection: close\r\n\r\n`;
    expect(statusLines(await send(origin, withToken + without))).toEqual(['HTTP/1.1 200', 'HTTP/1.1 401']);
  });
});

describe.runIf(process.platform === 'linux')('requests whose answers nobody reads', () => {
  const bundle = `GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\n${host}\r\n`;
  const openFiles = (): number =>
    readdirSync('/proc/self/fd').filter((fd) => linkOf(`/proc/self/fd/${fd}`).endsWith('swagger-ui-bundle.js')).length;

  it('end their connection beyond a few, and leave no file open behind it', async () => {
    const { origin } = await start();
    expect(statusLines(await send(origin, bundle.repeat(500))).length).toBeLessThan(50);
    await expect.poll(openFiles).toBe(0);
    const few = await open(origin);
    few.socket.pause();
    few.socket.write(bundle.repeat(20));
    await expect.poll(openFiles).toBeGreaterThan(0);
    few.socket.destroy();
    await expect.poll(openFiles).toBe(0);
  });

  it('have their lines of log, refused ones as well', async () => {
    const { origin, app } = await start();
    const lines: { error?: string }[] = [];
    app.log.info = (line: object) => void lines.push(line);
    const { socket } = await open(origin);
    socket.pause();
    const refused = `GET /v1/api-keys HTTP/1.1\r\n${host}Authorization: Bearer sample-wrong-token\r\n\r\n`;
    socket.write(bundle.repeat(4) + refused.repeat(20));
    await expect.poll(openFiles).toBeGreaterThan(0);
    socket.destroy();
    await expect.poll(() => lines.filter(({ error }) => error === 'auth_error')).toHaveLength(20);
    expect(lines).toHaveLength(24);
  });
});

describe('a stop', () => {
  it('waits no longer than it says for a connection whose request never comes whole', async () => {
    const { origin, close } = await start({ drainMs: 500 });
    const { socket, ended } = await open(origin);
    socket.write(`POST /v1/api-keys HTTP/1.1\r\n${host}${json}Content-Length: 100\r\n\r\n`);
    await new Promise((resolve) => socket.once('data', resolve));
    await close();
    expect(statusLines(await ended)).toEqual(['HTTP/1.1 401']);
  });
});

describe('a thousand idle connections', () => {
  it('leave the vault serving', async () => {
    const { origin, gateway } = await start();
    const idle = await Promise.all(Array.from({ length: 1_000 }, () => open(origin)));
    for (const { socket } of idle) socket.write(`GET /health HTTP/1.1\r\n${host}\r\n`);
    await expect.poll(() => idle.every(({ received }) => received().startsWith('HTTP/1.1 200'))).toBe(true);
    for (let turn = 0; turn < 20; turn += 1) expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
    expect(idle.filter(({ socket }) => socket.destroyed)).toEqual([]);
    for (const { socket } of idle) socket.destroy();
  });
});

describe('an answer', () => {
  it.each(['/health', '/v1/api-keys', '/nothing', '/v1/api-keys/%zz'])(
    'tells nothing of what the vault is built with: %s',
    async (path) => {
      const { origin } = await start();
      const response = await fetch(origin + path);
      for (const name of ['x-powered-by', 'server', 'via']) expect(response.headers.get(name), name).toBeNull();
      expect(await response.text()).not.toMatch(/node_modules|\bat \S+:\d+|fastify|FST_/i);
    },
  );

  it('to a failure inside says nothing of the inside, which the log has under the same request id', async () => {
    const { app, origin, services } = await start();
    const logged: unknown[] = [];
    app.log.error = (line: unknown) => void logged.push(line);
    services.readiness.assertReady = async () => {
      throw new TypeError('sample inner detail');
    };
    const response = await fetch(`${origin}/ready`);
    const text = await response.text();
    expect([response.status, JSON.parse(text).error.type]).toEqual([500, 'internal_error']);
    expect(text).not.toMatch(/sample inner detail|TypeError|stack|\.ts/);
    const { request_id } = JSON.parse(text).error;
    expect(logged).toEqual([{ request_id, err: expect.objectContaining({ message: 'sample inner detail' }) }]);
  });
});

describe('a method that a route does not have', () => {
  const call = (origin: string, method: string, path: string) =>
    new Promise<number>((resolve, reject) => {
      const headers = { authorization: `Bearer ${gatewayToken}` };
      const outgoing = httpRequest(origin + path, { method, headers }, (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
      });
      outgoing.on('error', reject).end();
    });

  it.each(['PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'QUERY', 'SEARCH', 'PURGE'])(
    'is not found: %s',
    async (method) => {
      const { origin } = await start();
      const known = ['/health', '/v1/api-keys', '/v1/api-keys/decrypt', '/admin/rotate/execute'];
      const statuses = await Promise.all(known.map((path) => call(origin, method, path)));
      for (const status of statuses) expect([400, 404]).toContain(status);
    },
  );

  it('does not slip past authentication as HEAD', async () => {
    const { origin } = await start();
    expect((await fetch(`${origin}/v1/api-keys`, { method: 'HEAD' })).status).toBe(401);
    expect(await call(origin, 'HEAD', '/admin/rotate')).toBe(403);
  });

  it('CONNECT and an upgrade get no connection of another kind', async () => {
    const { origin } = await start();
    const connected = await send(origin, `CONNECT 192.0.2.1:443 HTTP/1.1\r\n${host}\r\n`);
    expect(connected).not.toMatch(/^HTTP\/1\.1 (101|200)/);
    const upgraded = await send(
      origin,
      `GET /health HTTP/1.1\r\n${host}Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n`,
    );
    expect(upgraded).not.toMatch(/^HTTP\/1\.1 101/);
  });
});
