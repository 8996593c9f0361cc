/** Whoever asks for too much is told when to come back, in the contract's shape; whoever does not is served meanwhile. */

import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  adminToken,
  caller,
  gatewayToken,
  keyA,
  startVault,
  type TestVault,
  temporaryDatabase,
  tester,
} from '../support/vault.ts';

const otherToken = 'sample-other-gateway-token';
afterEach(() => void vi.restoreAllMocks());

type Answer = Awaited<ReturnType<TestVault['gateway']>>;

function expectLimited({ status, headers, body }: Answer): void {
  expect([status, body.error.type]).toEqual([429, 'rate_limited']);
  expect(body.error.request_id).toBe(headers.get('x-request-id'));
  const seconds = Number(headers.get('retry-after'));
  expect(Number.isInteger(seconds) && seconds >= 1 && seconds <= 60, `Retry-After: ${headers.get('retry-after')}`).toBe(true);
}

async function repeat(times: number, call: () => Promise<Answer>): Promise<number[]> {
  const statuses: number[] = [];
  for (let turn = 0; turn < times; turn += 1) statuses.push((await call()).status);
  return statuses;
}

describe('failed authentications', () => {
  it('are answered 401 up to the limit and 429 after it, on whatever route and with whatever token', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url, { VAULT_LIMIT_AUTH_FAILURES: '3' });
    const guess = caller(origin, 'sample-unknown-token');
    expect(await repeat(3, () => guess('GET', '/v1/api-keys'))).toEqual([401, 401, 401]);
    expectLimited(await guess('GET', '/v1/api-keys'));
    expectLimited(await caller(origin, 'another-unknown-token')('POST', '/admin/rotate/execute', {}));
    expectLimited(await caller(origin, null)('POST', '/v1/api-keys/decrypt', { name: 'K' }));
  });

  it('do not lock out a known token from the same address, nor what needs no token', async () => {
    const { url } = await temporaryDatabase();
    const { origin, gateway, admin } = await startVault(url, { VAULT_LIMIT_AUTH_FAILURES: '1' });
    await repeat(5, () => caller(origin, 'sample-unknown-token')('GET', '/v1/api-keys'));
    expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
    expect((await admin('GET', '/admin/rotate')).status).toBe(200);
    expect((await caller(origin, null)('GET', '/ready')).status).toBe(200);
  });

  it('are not what a known token gets where it may not go', async () => {
    const { url } = await temporaryDatabase();
    const { admin } = await startVault(url, { VAULT_LIMIT_AUTH_FAILURES: '2' });
    expect(await repeat(6, () => admin('GET', '/v1/api-keys'))).toEqual(Array(6).fill(403));
  });

  it('are counted by the address of the connection, not by one that the caller claims', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url, { VAULT_LIMIT_AUTH_FAILURES: '2' });
    const statuses: number[] = [];
    for (const claimed of ['192.0.2.1', '192.0.2.2', '192.0.2.3']) {
      const headers = { 'x-forwarded-for': claimed, forwarded: `for=${claimed}`, 'x-real-ip': claimed };
      statuses.push((await fetch(`${origin}/v1/api-keys`, { headers })).status);
    }
    expect(statuses).toEqual([401, 401, 429]);
  });

  it('of callers that reset the connection at once are no failure of the vault', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url);
    for (let turn = 0; turn < 20; turn += 1) {
      const socket = connect(Number(new URL(origin).port), '127.0.0.1');
      socket.write('GET /v1/api-keys HTTP/1.1\r\nHost: sample\r\n\r\n', () => socket.resetAndDestroy());
      await once(socket, 'close');
    }
    const metrics = async () => {
      const response = await fetch(`${origin}/metrics`, { headers: { authorization: `Bearer ${adminToken}` } });
      return (await response.text()).split('\n').filter((line) => line.includes('duration_seconds_count{'));
    };
    await expect.poll(metrics).toContainEqual(expect.stringContaining('route="/v1/api-keys"'));
    expect((await metrics()).join()).not.toContain('status="500"');
  });

  it('are 30 a minute unless told otherwise, and without limit at 0', async () => {
    const { url } = await temporaryDatabase();
    const first = await startVault(url);
    const guess = caller(first.origin, 'sample-unknown-token');
    expect((await repeat(31, () => guess('GET', '/v1/api-keys'))).indexOf(429)).toBe(30);
    await first.close();
    const { origin } = await startVault(url, { VAULT_LIMIT_AUTH_FAILURES: '0' });
    const statuses = await repeat(40, () => caller(origin, 'sample-unknown-token')('GET', '/v1/api-keys'));
    expect(new Set(statuses)).toEqual(new Set([401]));
  });
});

describe('many pages at once', () => {
  it.each(['list', 'decryptAll'] as const)('of %s let others have their turn between any two of them', async (call) => {
    const { url, gateway: database } = await temporaryDatabase();
    for (let row = 0; row < 10; row += 1) await database.insert(keyA, { id: `row-${row}`, name: `K${row}` });
    const { apiKeys } = (await startVault(url)).services;
    let turns = 0;
    let isOver = false;
    const count = (): void => {
      turns += 1;
      if (!isOver) setImmediate(count);
    };
    setImmediate(count);
    const page = { limit: 100, after: null, beforeOpening: async () => undefined };
    const ask = () => (call === 'list' ? apiKeys.list(null, null, page) : apiKeys.decryptAll(tester, null, page));
    await Promise.all(Array.from({ length: 30 }, ask));
    isOver = true;
    expect(turns).toBeGreaterThanOrEqual(29);
  });
});

describe('opened rows', () => {
  async function start(limit: string | undefined, rows = 3) {
    const { url, gateway: database } = await temporaryDatabase();
    for (let row = 0; row < rows; row += 1) await database.insert(keyA, { id: `row-${row}`, name: `K${row}` });
    const vault = await startVault(url, {
      VAULT_LIMIT_DECRYPTS: limit,
      VAULT_GATEWAY_TOKENS: `gateway:${gatewayToken},other:${otherToken}`,
    });
    const { body } = await vault.gateway('POST', '/v1/encrypt', { plaintext: 'sample' });
    return { ...vault, item: { ciphertext: body.ciphertext } };
  }

  it('are counted one by one, by token: another token still has its own', async () => {
    const { origin, gateway } = await start('2');
    expect(await repeat(2, () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }))).toEqual([200, 200]);
    expectLimited(await gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }));
    expect((await caller(origin, otherToken)('POST', '/v1/api-keys/decrypt', { name: 'K0' })).status).toBe(200);
  });

  it('count as many as decrypt-all would answer', async () => {
    const { gateway } = await start('5');
    expect((await gateway('POST', '/v1/api-keys/decrypt-all', {})).status).toBe(200);
    const refused = await gateway('POST', '/v1/api-keys/decrypt-all', {});
    expectLimited(refused);
    expect(JSON.stringify(refused.body)).not.toContain('sample-value');
    expect(await repeat(3, () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }))).toEqual([200, 200, 429]);
  });

  it('count as many as a batch holds', async () => {
    const { gateway, item } = await start('5');
    expectLimited(await gateway('POST', '/v1/decrypt', { items: Array(6).fill(item) }));
    expect((await gateway('POST', '/v1/decrypt', { items: Array(4).fill(item) })).status).toBe(200);
    expectLimited(await gateway('POST', '/v1/decrypt', { items: Array(2).fill(item) }));
    expect(await repeat(2, () => gateway('POST', '/v1/decrypt', item))).toEqual([200, 429]);
  });

  it('are never more than the limit, however many calls come at once', async () => {
    const { gateway, item } = await start('10');
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => gateway('POST', '/v1/decrypt', { items: Array(3).fill(item) })),
    );
    const opened = answers.filter(({ status }) => status === 200).length * 3;
    expect(opened).toBeLessThanOrEqual(10);
    expect(opened).toBeGreaterThan(0);
  });

  it('are counted anew after a minute, also where the clock has been set back meanwhile', async () => {
    const { gateway } = await start('1');
    expect(await repeat(2, () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }))).toEqual([200, 429]);
    const inAMinute = performance.now() + 60_000;
    vi.spyOn(performance, 'now').mockReturnValue(inAMinute);
    vi.spyOn(Date, 'now').mockReturnValue(Date.now() - 86_400_000);
    expect(await repeat(2, () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }))).toEqual([200, 429]);
  });

  it('do not limit what answers no plaintext', async () => {
    const { gateway, item } = await start('1');
    await repeat(2, () => gateway('POST', '/v1/api-keys/decrypt', { name: 'K0' }));
    expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
    expect((await gateway('POST', '/v1/rewrap', item)).status).toBe(200);
    expect((await gateway('POST', '/v1/api-keys', { name: 'N', provider: 'openai', value: 'sample' })).status).toBe(201);
  });

  it('have no limit by default', async () => {
    const { gateway, item } = await start(undefined);
    for (let turn = 0; turn < 3; turn += 1) {
      expect((await gateway('POST', '/v1/decrypt', { items: Array(1_000).fill(item) })).status).toBe(200);
    }
  });
});

describe('a process that cannot keep up', () => {
  it('refuses calls with 503 and Retry-After, but says that it lives and how it fares, and serves again afterwards', async () => {
    const { url } = await temporaryDatabase();
    const { origin, gateway } = await startVault(url, { VAULT_LIMIT_EVENT_LOOP_DELAY: '30' });
    expect((await gateway('GET', '/v1/api-keys')).status).toBe(200);
    const load = setInterval(() => {
      const until = Date.now() + 150;
      while (Date.now() < until);
    }, 1);
    try {
      await expect.poll(async () => (await gateway('GET', '/v1/api-keys')).status).toBe(503);
      const { headers, body } = await gateway('GET', '/v1/api-keys');
      expect([body.error.type, headers.get('retry-after')]).toEqual(['storage_unavailable', '1']);
      expect((await caller(origin, adminToken)('GET', '/admin/rotate')).status).toBe(503);
      expect((await caller(origin, null)('GET', '/health')).status).toBe(200);
      expect((await caller(origin, adminToken)('GET', '/metrics')).status).toBe(200);
    } finally {
      clearInterval(load);
    }
    await expect.poll(async () => (await gateway('GET', '/v1/api-keys')).status).toBe(200);
  });
});
