/** The example gateway, against a real vault and a provider's stub: it streams with the tenant's key, and outlives the vault. */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from 'undici';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { compileExampleGateway, startExampleGateway } from '../support/example.ts';
import { caller, gatewayToken, startVault, temporaryDatabase } from '../support/vault.ts';

let folder = '';

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'provara-vault-example-'));
  await compileExampleGateway(folder);
  return () => rmSync(folder, { recursive: true, force: true });
});

interface ProviderStub {
  readonly url: string;
  /** The one that it takes; another is answered with 401. */
  accepted: string;
  readonly tried: string[];
  readonly streams: ServerResponse[];
}

/** Writes the first event of a stream at once; the test goes on from there. */
async function startProvider(): Promise<ProviderStub> {
  const provider: ProviderStub = { url: '', accepted: '', tried: [], streams: [] };
  const server = createServer((incoming, outgoing) => {
    const key = incoming.headers.authorization?.replace('Bearer ', '') ?? '';
    provider.tried.push(key);
    incoming.resume();
    if (key !== provider.accepted) {
      outgoing.writeHead(401, { 'content-type': 'application/json' });
      return void outgoing.end('{"error":{"message":"Incorrect API key"}}');
    }
    outgoing.writeHead(200, { 'content-type': 'text/event-stream' });
    outgoing.write('data: {"delta":"Hel"}\n\n');
    return void provider.streams.push(outgoing);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return Object.assign(provider, { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

async function start() {
  const { url } = await temporaryDatabase();
  const vault = await startVault(url);
  const provider = await startProvider();
  const gateway = await startExampleGateway(folder, {
    VAULT_URL: vault.origin,
    VAULT_TOKEN: gatewayToken,
    PROVIDER_URL: provider.url,
    GATEWAY_TENANTS: 'acme:sample-caller-token,bare:sample-other-caller,unset:',
  });
  const store = async (value: string): Promise<void> => {
    const key = { tenant_id: 'acme', name: 'OPENAI_API_KEY', provider: 'openai', value };
    const { status, body } = await caller(vault.origin, gatewayToken)('POST', '/v1/api-keys', key);
    expect([200, 201], JSON.stringify(body)).toContain(status);
  };
  const complete = (token: string | null = 'sample-caller-token') =>
    request(`${gateway.origin}/v1/chat/completions`, {
      method: 'POST',
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
      body: '{"stream":true}',
    });
  return { vault, provider, gateway, store, complete };
}

async function finish(provider: ProviderStub): Promise<void> {
  await expect.poll(() => provider.streams.length).toBe(1);
  provider.streams.pop()?.end('data: {"delta":"lo"}\n\ndata: [DONE]\n\n');
}

it('streams a completion with the tenant’s key as it comes, and shows that key to nobody', async () => {
  const { provider, gateway, store, complete } = await start();
  await store('sample-provider-key-0001');
  provider.accepted = 'sample-provider-key-0001';
  const { statusCode, headers, body } = await complete();
  expect([statusCode, headers['content-type']]).toEqual([200, 'text/event-stream']);
  const events: string[] = [];
  for await (const chunk of body) {
    events.push(String(chunk));
    // The rest is not written before the first event is here.
    if (events.length === 1) await finish(provider);
  }
  expect(events.join('')).toBe('data: {"delta":"Hel"}\n\ndata: {"delta":"lo"}\n\ndata: [DONE]\n\n');
  expect(gateway.output()).not.toContain('sample-provider-key');
});

it('takes up a key that was replaced elsewhere, goes on while the vault is away, and ends with its caller', async () => {
  const { vault, provider, gateway, store, complete } = await start();
  for (const value of ['sample-key-1', 'sample-key-2']) {
    await store(value);
    provider.accepted = value;
    const answer = await complete();
    await finish(provider);
    expect([answer.statusCode, await answer.body.text()]).toEqual([200, expect.stringContaining('[DONE]')]);
  }
  expect(provider.tried).toEqual(['sample-key-1', 'sample-key-1', 'sample-key-2']);
  await vault.close();
  const answer = await complete();
  expect(answer.statusCode).toBe(200);
  await expect.poll(() => provider.streams.length).toBe(1);
  const ended = new Promise((resolve) => provider.streams[0]?.once('close', resolve));
  answer.body.destroy();
  await ended;
  const exited = new Promise((resolve) => gateway.child.once('exit', resolve));
  gateway.child.kill('SIGTERM');
  expect(await exited).toBe(0);
});

it('tells its callers apart what they can mend and what they cannot', async () => {
  const { vault, complete } = await start();
  // Nobody is the tenant whose token was left empty.
  for (const token of ['sample-unknown', null]) expect((await complete(token)).statusCode).toBe(401);
  expect((await complete('sample-other-caller')).statusCode).toBe(400);
  await vault.close();
  expect((await complete()).statusCode).toBe(503);
});
