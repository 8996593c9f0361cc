/** Whatever is sent, the answer is the contract's error in the contract's shape, and never a 5xx that is not true. */

import { randomBytes, randomInt } from 'node:crypto';
import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { adminToken, caller, gatewayToken, keyB, startVault, temporaryDatabase } from '../support/vault.ts';

const randomBodies = 100_000;
/** For each route that takes none. */
const fewBodies = 200;

async function start(settings: Record<string, string> = {}, options: Parameters<typeof startVault>[2] = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  return { database, ...(await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, ...settings }, options)) };
}

function headersFor(path: string): Record<string, string> {
  const token = path.startsWith('/admin') ? adminToken : gatewayToken;
  return { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
}

async function post(origin: string, path: string, body: string | Buffer, headers: Record<string, string> = {}) {
  const response = await fetch(origin + path, { method: 'POST', headers: { ...headersFor(path), ...headers }, body });
  return { status: response.status, headers: response.headers, body: JSON.parse(await response.text()) };
}

describe('a malformed request', () => {
  it('with a field in the wrong place is refused rather than half understood', async () => {
    const { origin, gateway, admin } = await start();
    expect((await gateway('POST', '/v1/api-keys/decrypt?tenant_id=acme', { name: 'K' })).status).toBe(400);
    expect((await admin('POST', '/admin/rotate/dry-run?upgrade_format=1')).status).toBe(400);
    expect((await gateway('GET', '/v1/api-keys/status?tenant_id=acme')).status).toBe(400);
    for (const body of [{ tenant_id: 'acme' }, [1], 5, true, null])
      expect((await gateway('DELETE', '/v1/api-keys/K', body)).status, JSON.stringify(body)).toBe(400);
    const elsewhere = Buffer.from('["zz"]').toString('base64url');
    for (const path of ['/v1/api-keys', '/v1/tenants'])
      expect((await gateway('GET', `${path}?cursor=${elsewhere}`)).status, path).toBe(400);
    expect((await gateway('POST', '/v1/api-keys/decrypt-all', { cursor: elsewhere })).status).toBe(400);
    expect((await post(origin, '/v1/api-keys/decrypt', '{"name":"K"}', { 'content-encoding': 'gzip' })).status).toBe(415);
  });

  it('of several possible shapes is told what is wrong in the one that it came closest to', async () => {
    const { gateway } = await start();
    const messageOf = async (path: string, body: unknown) => (await gateway('POST', path, body)).body.error.message;
    expect(await messageOf('/v1/encrypt', { items: [{ plaintext: 'a' }, { plaintext: 1 }] })).toBe(
      'body.items.1.plaintext must be string.',
    );
    expect(await messageOf('/v1/encrypt', { items: Array.from({ length: 1_001 }, () => ({ plaintext: 'a' })) })).toBe(
      'body.items must NOT have more than 1000 items.',
    );
    expect(await messageOf('/v1/decrypt', { encrypted_value: '00', iv: '00' })).toContain("'auth_tag'");
    expect(await messageOf('/v1/api-keys/decrypt', { name: 'é'.repeat(128) })).toBe(
      'body.name must be 1 to 255 bytes without control characters.',
    );
  });

  it.each([
    ['malformed JSON', '{"name": "K"', 400, 'validation_error'],
    ['no JSON at all', 'name=K', 400, 'validation_error'],
    ['an array', '[]', 400, 'validation_error'],
    ['null', 'null', 400, 'validation_error'],
    ['a string', '"K"', 400, 'validation_error'],
    ['__proto__', '{"name":"K","__proto__":{"a":1}}', 400, 'validation_error'],
    ['a constructor', '{"name":"K","constructor":{"prototype":{}}}', 400, 'validation_error'],
    ['more than 8 MiB', `{"name":"${'x'.repeat(8 * 1024 * 1024)}"}`, 413, 'payload_too_large'],
  ])('of %s is refused', async (_case, body, status, type) => {
    const { origin } = await start();
    const answer = await post(origin, '/v1/api-keys/decrypt', body);
    expect([answer.status, answer.body.error.type]).toEqual([status, type]);
    expect(answer.headers.get('cache-control')).toBe('no-store');
    expect(answer.headers.get('x-request-id')).toBe(answer.body.error.request_id);
  });

  it('of more values than any valid body has is refused before it is parsed', async () => {
    const { origin } = await start();
    const nested = '['.repeat(4_000_000) + ']'.repeat(4_000_000);
    const fields = Array.from({ length: 500_000 }, (_, index) => `"${index.toString(36)}":0`);
    const texts = Array.from({ length: 500_000 }, (_, index) => `"${index.toString(36)}"`);
    for (const body of [nested, `[${'{},'.repeat(1_000_000)}{}]`, `{${fields}}`, `{"name":[${texts}]}`]) {
      const answer = await post(origin, '/v1/api-keys/decrypt', body);
      expect([answer.status, answer.body.error.message]).toEqual([400, 'The body holds more than 20000 values.']);
    }
    const oneText = JSON.stringify({ name: '\\"[{,'.repeat(30_000) });
    expect((await post(origin, '/v1/api-keys/decrypt', oneText)).body.error.message).toContain('body.name');
  });

  it('is not even read where there is no such route', async () => {
    const { origin } = await start();
    for (const path of ['/nothing', '/health']) {
      expect((await post(origin, path, '{"name": "K"')).status).toBe(404);
    }
  });

  it('is refused where it is DELETE with a body, however deep', async () => {
    const { gateway } = await start();
    const body = '['.repeat(10_000) + ']'.repeat(10_000);
    expect((await gateway('DELETE', '/v1/api-keys/K', body)).status).toBe(400);
  });

  it('of an unknown field is told no more of its name than one can read', async () => {
    const { gateway } = await start();
    const { status, body } = await gateway('POST', '/v1/api-keys/decrypt', { ['x'.repeat(1_000_000)]: 1, name: 'K' });
    expect([status, body.error.message.length < 400]).toEqual([400, true]);
  });

  it('of bytes that are no UTF-8 is refused rather than altered', async () => {
    const { origin } = await start();
    const body = Buffer.concat([Buffer.from('{"name":"K","provider":"p","value":"{'), Buffer.from([0xe9]), Buffer.from('}"}')]);
    expect((await post(origin, '/v1/api-keys', body)).status).toBe(400);
  });

  it('of null is refused also where a body may be left out', async () => {
    const { origin } = await start();
    expect((await post(origin, '/admin/rotate/dry-run', 'null')).status).toBe(400);
    expect((await post(origin, '/admin/rotate/dry-run', '')).status).toBe(200);
  });

  it.each(['text/plain', 'application/x-www-form-urlencoded', 'application/xml'])('of the type %s is refused', async (type) => {
    const { origin } = await start();
    const answer = await post(origin, '/v1/api-keys/decrypt', '{"name":"K"}', { 'content-type': type });
    expect([answer.status, answer.body.error.type]).toEqual([415, 'unsupported_media_type']);
  });

  it('never repeats a value in its error', async () => {
    const { origin } = await start();
    const secret = 'sample-secret-that-must-not-come-back';
    for (const body of [`{"name":"K","provider":"p","value":["${secret}"]}`, `{"name":"K","provider":"p","value":"${secret}`]) {
      expect(JSON.stringify((await post(origin, '/v1/api-keys', body)).body)).not.toContain(secret);
    }
  });

  it.each(['/v1/api-keys/%zz', `/v1/api-keys/${'x'.repeat(2_000)}`, '/v1/%00', '/v1/api-keys/a%2fb', '//', '/v1/nothing'])(
    'to %s gets an error in the one shape, with an id',
    async (path) => {
      const { origin } = await start();
      const response = await fetch(origin + path, { headers: { authorization: `Bearer ${gatewayToken}` } });
      const body = (await response.json()) as { error: { type: string; request_id: string } };
      expect([400, 404]).toContain(response.status);
      expect(body.error.type).toBe(response.status === 400 ? 'validation_error' : 'not_found');
      expect(response.headers.get('x-request-id')).toBe(body.error.request_id);
      expect(response.headers.get('cache-control')).toBe('no-store');
    },
  );

  it.each([
    ['that is no HTTP', 'NOT HTTP AT ALL\r\n\r\n', 'not an HTTP request'],
    ['whose headers are too large', `GET / HTTP/1.1\r\nX-Sample: ${'x'.repeat(20_000)}\r\n\r\n`, 'larger than 16 KiB'],
  ])('%s gets 400 in the same shape', async (_case, bytes, message) => {
    const { origin } = await start();
    const { port } = new URL(origin);
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect(Number(port), '127.0.0.1', () => socket.write(bytes));
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('end', () => resolve(text)).on('error', reject);
    });
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    const { error } = JSON.parse(answer.split('\r\n\r\n')[1] ?? '');
    expect([error.type, error.message]).toEqual(['validation_error', expect.stringContaining(message)]);
  });

  it('that expects anything gets the answer that it would have without', async () => {
    const { origin } = await start();
    const { port } = new URL(origin);
    const answer = await new Promise<string>((resolve, reject) => {
      const lines = ['GET /v1/api-keys HTTP/1.1', 'Host: sample', 'Expect: anything', 'Connection: close', '', ''];
      const socket = connect(Number(port), '127.0.0.1', () => socket.write(lines.join('\r\n')));
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('end', () => resolve(text)).on('error', reject);
    });
    expect(answer).toMatch(/^HTTP\/1\.1 401 [\s\S]*x-request-id: [\s\S]*"auth_error"/i);
  });

  it('with a request id of its own keeps it where it is short and printable, and gets a new one otherwise', async () => {
    const { origin } = await start();
    const idOf = async (id: string) =>
      (await fetch(`${origin}/health`, { headers: { 'x-request-id': id } })).headers.get('x-request-id');
    expect(await idOf('gateway-0001')).toBe('gateway-0001');
    expect(await idOf('x'.repeat(128))).toBe('x'.repeat(128));
    for (const id of ['x'.repeat(129), 'two words', 'caf\u00e9']) expect(await idOf(id)).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('a missing table', () => {
  it('gets a truthful error that names it', async () => {
    const { gateway, admin, database } = await start();
    await database.run('DROP TABLE api_keys');
    const { status, body } = await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
    expect([status, body.error.type]).toEqual([503, 'configuration_error']);
    expect(body.error.message).toContain("no table api_keys. Let the gateway's migration end");
    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(503);
  });
});

describe('random bodies', () => {
  it('crash nothing and get no 5xx, on every route', { timeout: 600_000 }, async () => {
    // Injected requests have no connection that ends: what their bodies may take is not to run out within the test.
    const receiveLimits = { bodyMs: 600_000, largeBodyMs: 600_000, stallMs: 600_000 };
    const { origin, routes, gateway, app } = await start({ VAULT_LIMIT_EVENT_LOOP_DELAY: '0' }, { receiveLimits });
    const perRoute = Math.ceil(randomBodies / routes.filter(({ method }) => method === 'POST').length);
    for (const { method, url: path } of routes) {
      const headers = headersFor(path);
      const bodies = method === 'POST' ? perRoute : fewBodies;
      for (let index = 0; index < bodies; index += 1) {
        const payload = randomBody();
        const { statusCode, body } = await app.inject({ method: method as 'POST', url: path, headers, payload });
        if (statusCode >= 500) expect.fail(`${method} ${path} answered ${statusCode} ${body} to ${payload}`);
      }
    }
    expect((await gateway('GET', '/v1/api-keys/status')).body).toEqual({ configured: true });
    expect((await caller(origin, null)('GET', '/ready')).status).toBe(200);
  });
});

const fields = ['tenant_id', 'name', 'provider', 'value', 'plaintext', 'ciphertext', 'context', 'items', 'cursor'];
const moreFields = [
  'encrypted_value',
  'iv',
  'auth_tag',
  'old_key_id',
  'new_key_id',
  'skip_ids',
  'upgrade_format',
  '__proto__',
  'x',
];

/** JSON of the right fields with the wrong things in them, JSON of anything, or no JSON. */
function randomBody(): string {
  const kind = randomInt(10);
  if (kind === 0) return randomBytes(randomInt(64)).toString('latin1');
  if (kind === 1) return JSON.stringify(randomValue(3));
  const names = [...fields, ...moreFields];
  const entries = Array.from({ length: randomInt(1, 5) }, () => [names[randomInt(names.length)] as string, randomValue(2)]);
  return JSON.stringify(Object.fromEntries(entries));
}

function randomValue(depth: number): unknown {
  const scalars = [
    null,
    true,
    0,
    -1,
    1e308,
    '',
    'K',
    'sample',
    '\ud800',
    '\u0000',
    'pv1.',
    'ab',
    '00'.repeat(16),
    randomBytes(8).toString('hex'),
  ];
  const kind = randomInt(depth > 0 ? 16 : 14);
  if (kind < 14) return scalars[kind];
  const values = Array.from({ length: randomInt(4) }, () => randomValue(depth - 1));
  return kind === 14 ? values : Object.fromEntries(values.map((value, index) => [fields[index] ?? 'y', value]));
}
