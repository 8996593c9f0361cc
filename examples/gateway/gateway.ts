/** The smallest gateway: streams a chat completion from the provider, with the tenant's own key, which it asks the vault for. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  VaultClient,
  VaultClientError,
  VaultConnectionError,
  VaultNotFoundError,
  VaultStorageUnavailableError,
  VaultTimeoutError,
} from 'provara-vault/client';

const {
  VAULT_URL = 'http://127.0.0.1:4100',
  VAULT_TOKEN = '',
  PROVIDER_URL = 'https://api.openai.com',
  PORT = '8080',
} = process.env;
const keyName = 'OPENAI_API_KEY';
/** `tenant:token` pairs, comma-separated: who may call this gateway. A pair without a token admits nobody. */
const tenantByToken = new Map(
  (process.env.GATEWAY_TENANTS ?? '')
    .split(',')
    .map((pair) => pair.split(':').reverse() as [string, string])
    .filter(([token]) => token !== ''),
);

const vault = new VaultClient({
  url: VAULT_URL,
  token: VAULT_TOKEN,
  // A key that was replaced counts after half a minute; with the vault away, known keys serve for another ten.
  cache: { ttlMs: 30_000, staleMs: 600_000, onStale: ({ type }) => console.warn(`vault away (${type}): a known key serves on`) },
});

const server = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => fail(response, error));
});
server.listen(Number(PORT), '127.0.0.1', () =>
  console.log(`listening at http://127.0.0.1:${(server.address() as { port: number }).port}`),
);
process.once('SIGTERM', () => server.close(() => void vault.close()));

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const tenant = tenantByToken.get(request.headers.authorization?.replace(/^Bearer /, '') ?? '');
  if (tenant === undefined) return refuse(response, 401, 'Send a token of this gateway.');
  if (request.method !== 'POST' || request.url !== '/v1/chat/completions')
    return refuse(response, 404, 'There is no such route.');

  const caller = new AbortController();
  response.once('close', () => caller.abort());
  const completion = await complete(tenant, await readBody(request), caller.signal);
  response.writeHead(completion.status, { 'content-type': completion.headers.get('content-type') ?? 'application/json' });
  if (completion.body === null) response.end();
  else await pipeline(Readable.fromWeb(completion.body), response);
}

/** A provider that refuses the key may know of a newer one, which another process has stored: asked for once. */
async function complete(tenant: string, body: string, signal: AbortSignal): Promise<Response> {
  const first = await send(tenant, body, signal);
  if (first.status !== 401) return first;
  await first.body?.cancel();
  vault.forgetKey({ tenant_id: tenant, name: keyName });
  return send(tenant, body, signal);
}

async function send(tenant: string, body: string, signal: AbortSignal): Promise<Response> {
  const key = await vault.decryptKey({ tenant_id: tenant, name: keyName }, { signal });
  return fetch(`${PROVIDER_URL}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key.value}`, 'content-type': 'application/json' },
    body,
    signal,
  });
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

function fail(response: ServerResponse, error: unknown): void {
  // The id is the one to look for in the vault's log.
  if (error instanceof VaultClientError) console.error(`vault: ${error.type}, request ${error.requestId}`);
  if (response.headersSent || response.destroyed) response.destroy();
  else refuse(response, ...whatTheCallerLearns(error));
}

/** Of a vault that said no, or nothing. */
function whatTheCallerLearns(error: unknown): [status: number, message: string] {
  if (error instanceof VaultNotFoundError) return [400, `Store an ${keyName} first.`];
  const away = [VaultConnectionError, VaultTimeoutError, VaultStorageUnavailableError];
  if (away.some((Class) => error instanceof Class)) return [503, 'Try again in a moment.'];
  return [502, 'The completion failed.'];
}

function refuse(response: ServerResponse, status: number, message: string): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: { message } }));
}
