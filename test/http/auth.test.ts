/** Only the open list answers without a token, and no role reaches the other's routes. */

import { describe, expect, it } from 'vitest';
import { adminToken, caller, gatewayToken, startVault, temporaryDatabase } from '../support/vault.ts';

const openRoutes = ['GET /health', 'GET /openapi.json', 'GET /ready'];

async function statusesOf(token: string | null): Promise<Map<string, number>> {
  const { url } = await temporaryDatabase();
  const { origin, routes } = await startVault(url);
  const call = caller(origin, token);
  const statuses = new Map<string, number>();
  for (const { method, url: path } of routes) {
    const { status } = await call(method, path.replaceAll(/:\w+/g, 'some-id'), method === 'POST' ? {} : undefined);
    statuses.set(`${method} ${path}`, status);
  }
  return statuses;
}

const withStatus = (statuses: Map<string, number>, status: number): string[] =>
  [...statuses].filter(([, found]) => found === status).map(([route]) => route);

describe('authentication', () => {
  it('lets nothing but the open list answer without a token', async () => {
    const statuses = await statusesOf(null);
    const refused = withStatus(statuses, 401);
    expect([...statuses.keys()].filter((route) => !refused.includes(route)).sort()).toEqual(openRoutes);
    expect(statuses.size).toBeGreaterThan(openRoutes.length);
  });

  it.each(['unknown-token', '', 'sample-gateway-toke', 'sample-gateway-token1'])(
    'refuses the unknown token %j everywhere',
    async (token) => {
      const refused = withStatus(await statusesOf(token), 401);
      expect(refused.some((route) => openRoutes.includes(route))).toBe(false);
      expect(refused.filter((route) => / \/(v1|admin)\//.test(route)).length).toBe(refused.length);
      expect(refused.length).toBeGreaterThan(10);
    },
  );

  it('keeps a gateway token out of every admin route', async () => {
    const statuses = await statusesOf(gatewayToken);
    const forbidden = withStatus(statuses, 403);
    expect(forbidden.sort()).toEqual([...statuses.keys()].filter((route) => route.includes(' /admin/')).sort());
  });

  it('keeps an admin token out of every gateway route', async () => {
    const statuses = await statusesOf(adminToken);
    const forbidden = withStatus(statuses, 403);
    expect(forbidden.sort()).toEqual([...statuses.keys()].filter((route) => route.includes(' /v1/')).sort());
  });

  it('answers 401 with the error shape and asks for a bearer token', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url);
    const { status, headers, body } = await caller(origin, null)('GET', '/v1/api-keys');
    expect(status).toBe(401);
    expect(headers.get('www-authenticate')).toBe('Bearer');
    expect(body.error.type).toBe('auth_error');
    expect(body.error.request_id).toBe(headers.get('x-request-id'));
  });

  it.each(['Basic c2FtcGxl', `bearer  ${gatewayToken} extra`, gatewayToken, `Token ${gatewayToken}`])(
    'refuses the Authorization header %j',
    async (authorization) => {
      const { url } = await temporaryDatabase();
      const { origin } = await startVault(url);
      expect((await fetch(`${origin}/v1/api-keys`, { headers: { authorization } })).status).toBe(401);
    },
  );

  it('accepts a token that is configured by its digest', async () => {
    const { url } = await temporaryDatabase();
    const digest = 'ea4d3e4b9e1c0d9b4a5e8cf0a4ef7a1a9a3b2b3f5a0ab4c85f2a0f9b5f2a7a10';
    const { createHash } = await import('node:crypto');
    const real = createHash('sha256').update('sample-digest-token').digest('hex');
    const { origin } = await startVault(url, { VAULT_GATEWAY_TOKENS: `old:sha256:${digest},new:sha256:${real}` });
    expect((await caller(origin, 'sample-digest-token')('GET', '/v1/api-keys')).status).toBe(200);
    expect((await caller(origin, digest)('GET', '/v1/api-keys')).status).toBe(401);
  });
});
