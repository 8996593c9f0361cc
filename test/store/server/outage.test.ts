/** A server that goes away and comes back costs 503s for as long as it is away, and nothing else; the vault is not restarted. */

import { describe, expect, it } from 'vitest';
import { startServer } from '../../support/process.ts';
import { startSqld } from '../../support/sqld.ts';
import { adminToken, caller, environmentFor, gatewayToken } from '../../support/vault.ts';

describe('the server killed and restarted under load', () => {
  it('loses no acknowledged store, answers 503 meanwhile, and /ready says so both ways', { timeout: 120_000 }, async () => {
    const server = await startSqld();
    const vault = await startServer(environmentFor(server.url));
    const gateway = caller(vault.origin, gatewayToken);
    const acknowledged = new Map<string, string>();
    const statuses = new Set<number>();
    let isRunning = true;
    const load = Array.from({ length: 4 }, async (_, worker) => {
      for (let index = 0; isRunning; index += 1) {
        const name = `K-${worker}-${index}`;
        const answer = await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: `sample-${index}` });
        statuses.add(answer.status);
        if (answer.status === 201 || answer.status === 200) acknowledged.set(name, `sample-${index}`);
        else expect(answer.body.error.type).toBe('storage_unavailable');
      }
    });
    for (let round = 0; round < 3; round += 1) {
      const before = acknowledged.size;
      await until(() => acknowledged.size > before + 20);
      await server.stop('SIGKILL');
      expect((await gateway('GET', '/ready')).status).toBe(503);
      expect((await gateway('GET', '/health')).status).toBe(200);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await server.start();
      expect((await gateway('GET', '/ready')).status).toBe(200);
    }
    const before = acknowledged.size;
    await until(() => acknowledged.size > before + 20);
    isRunning = false;
    await Promise.all(load);
    for (const [name, value] of acknowledged) {
      expect((await gateway('POST', '/v1/api-keys/decrypt', { name })).body.key?.value, name).toBe(value);
    }
    expect([...statuses].every((status) => [200, 201, 503].includes(status))).toBe(true);
    expect(await vault.stop()).toBe(0);
  });
});

describe('a server that is away when the vault starts', () => {
  it('is waited for: /ready says so until this replica has joined the others, and no restart is needed', async () => {
    const server = await startSqld();
    // With one that was never served nothing would be ready anyway.
    await (await startServer(environmentFor(server.url))).stop();
    await server.stop();
    const vault = await startServer(environmentFor(server.url, { VAULT_AUDIT_LOG: 'stdout' }));
    const gateway = caller(vault.origin, gatewayToken);
    expect(vault.output()).toContain('it cannot be reached at DATABASE_URL (ECONNREFUSED)');
    expect((await gateway('GET', '/health')).status).toBe(200);
    for (const [method, path, body] of [
      ['GET', '/ready', undefined],
      ['POST', '/v1/api-keys/decrypt', { name: 'K' }],
    ] as const) {
      const { status, body: answer } = await gateway(method, path, body);
      expect([status, answer.error.type], path).toEqual([503, 'storage_unavailable']);
    }
    await server.start();
    // Nothing is served before.
    for (let isReady = false; !isReady; ) {
      const { status } = await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
      isReady = (await gateway('GET', '/ready')).status === 200;
      if (!isReady) expect(status).toBe(503);
    }
    expect(/"seq":1,.*"act":"([a-z.]+)"/.exec(vault.output())?.[1]).toBe('audit.start');
    const replicas = await caller(vault.origin, adminToken)('GET', '/admin/master-keys');
    expect(replicas.body.replicas).toHaveLength(1);
    expect((await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample' })).status).toBe(201);
    expect(await vault.stop()).toBe(0);
  });

  it('ends the process with the reason where it then turns out that the vault cannot serve it', async () => {
    const server = await startSqld();
    await server.stop();
    const vault = await startServer(environmentFor(server.url, { PROVARA_MASTER_KEY: 'sample passphrase' }));
    await server.start();
    await expect.poll(() => vault.child.exitCode).toBe(1);
    expect(vault.output()).toContain('64 hexadecimal characters');
  });

  it('does not keep the vault from stopping', async () => {
    const server = await startSqld();
    await server.stop();
    const vault = await startServer(environmentFor(server.url));
    expect(await vault.stop()).toBe(0);
  });
});

describe('two vaults on one server', () => {
  it('act as one: what one stores the other decrypts, and a new name stored by both at once is one row', async () => {
    const server = await startSqld();
    const vaults = [await startServer(environmentFor(server.url)), await startServer(environmentFor(server.url))];
    const [first, second] = vaults.map(({ origin }) => caller(origin, gatewayToken));
    if (first === undefined || second === undefined) throw new Error('Two were started.');
    await first('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-1' });
    expect((await second('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-1');
    const stores = Array.from({ length: 20 }, (_, index) =>
      (index % 2 === 0 ? first : second)('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: `sample-${index}` }),
    );
    const statuses = (await Promise.all(stores)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 201)).toHaveLength(1);
    expect((await first('GET', '/v1/api-keys')).body.keys).toHaveLength(2);
  });
});

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('It did not come to pass in time.');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
