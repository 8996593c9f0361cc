/** Only the open list answers without a token, no role reaches another's routes, and no token another tenant's rows. */

import { describe, expect, it } from 'vitest';
import { type Operation, openApi } from '../support/openapi.ts';
import { adminToken, caller, gatewayToken, keyA, startVault, temporaryDatabase } from '../support/vault.ts';

const openRoutes = ['GET /health', 'GET /openapi.json', 'GET /ready'];

const writerToken = 'sample-writer-token';
const metricsToken = 'sample-metrics-token';
const limitedGatewayToken = 'sample-limited-gateway-token';
const limitedWriterToken = 'sample-limited-writer-token';
const settings = {
  VAULT_GATEWAY_TOKENS: `gateway:${gatewayToken},limited@acme|beta:${limitedGatewayToken}`,
  VAULT_WRITER_TOKENS: `dashboard:${writerToken},limited@acme:${limitedWriterToken}`,
  VAULT_METRICS_TOKENS: `scraper:${metricsToken}`,
  VAULT_LIMIT_AUTH_FAILURES: '0',
};

/** What a writer may do, of all that there is. */
const writerRoutes = ['DELETE /v1/api-keys/:id', 'GET /v1/api-keys', 'GET /v1/api-keys/:id', 'POST /v1/api-keys'];
/** What a token limited to tenants may do without naming one. */
const tenantFreeRoutes = ['GET /v1/api-keys/status'];
/** Bodies that validate, so that the answer is about the tenant. */
const bodies: Readonly<Record<string, Record<string, unknown>>> = {
  'POST /v1/api-keys': { name: 'K', provider: 'openai', value: 'sample-value-0001' },
  'POST /v1/api-keys/decrypt': { name: 'K' },
  'POST /v1/encrypt': { plaintext: 'sample' },
  'POST /v1/decrypt': { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA' },
  'POST /v1/rewrap': { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA' },
};

/** The status of every route for one token; `tenantId` goes into the query or the body, wherever the route takes one. */
async function statusesOf(token: string | null, tenantId?: string | null): Promise<Map<string, number>> {
  const { url } = await temporaryDatabase();
  const { origin, routes } = await startVault(url, settings);
  const call = caller(origin, token);
  const statuses = new Map<string, number>();
  for (const { method, url: path } of routes) {
    const route = `${method} ${path}`;
    const place = path.replaceAll(/:\w+/g, 'some-id');
    const takesTenant = path.includes('/api-keys') && tenantId !== undefined && !tenantFreeRoutes.includes(route);
    const body = { ...bodies[route], ...(takesTenant && { tenant_id: tenantId }) };
    const query = takesTenant && typeof tenantId === 'string' ? `?tenant_id=${tenantId}` : '';
    const { status } = method === 'POST' ? await call(method, place, body) : await call(method, place + query);
    statuses.set(route, status);
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
      expect(refused.filter((route) => / \/(v1\/|admin\/|metrics)/.test(route)).length).toBe(refused.length);
      expect(refused.length).toBeGreaterThan(10);
    },
  );

  const openTo = async (token: string): Promise<string[]> =>
    [...(await statusesOf(token))].filter(([, status]) => status !== 403).map(([route]) => route);
  const under = (routes: Iterable<string>, prefix: string): string[] => [...routes].filter((route) => route.includes(prefix));

  it('opens to a gateway token every gateway route and none of an operator’s', async () => {
    const all = [...(await statusesOf(null)).keys()];
    expect((await openTo(gatewayToken)).sort()).toEqual([...openRoutes, ...under(all, ' /v1/')].sort());
  });

  it('opens to an admin token every operator’s route and none of the gateway’s', async () => {
    const all = [...(await statusesOf(null)).keys()];
    const expected = [...openRoutes, ...under(all, ' /admin/'), ...under(all, ' /metrics')];
    expect((await openTo(adminToken)).sort()).toEqual(expected.sort());
  });

  it('opens to a writer token storing, listing, getting and deleting, and nothing that answers a plaintext', async () => {
    expect((await openTo(writerToken)).sort()).toEqual([...openRoutes, ...writerRoutes].sort());
  });

  it('opens to a metrics token no route but that of the metrics', async () => {
    const all = [...(await statusesOf(null)).keys()];
    expect((await openTo(metricsToken)).sort()).toEqual([...openRoutes, ...under(all, ' /metrics')].sort());
  });

  it.each([
    ['gateway', gatewayToken],
    ['writer', writerToken],
    ['admin', adminToken],
    ['metrics', metricsToken],
  ])('opens to a %s token what openapi.yaml says it is for, and nothing else', async (role, token) => {
    const isFor = ({ security = [] }: Operation): boolean =>
      security.length === 0 || security.some(({ bearer }) => bearer?.includes(role));
    const described = Object.entries(openApi.paths).flatMap(([path, operations]) =>
      Object.entries(operations)
        .filter(([, operation]) => isFor(operation))
        .map(([method]) => `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`),
    );
    expect((await openTo(token)).sort()).toEqual(described.sort());
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

  it('of a known token that a route refuses is named in the line of log, and an unknown one is not', async () => {
    const { url } = await temporaryDatabase();
    const { origin, app } = await startVault(url);
    const lines: unknown[] = [];
    app.log.info = (line: unknown) => void lines.push(line);
    for (const token of [adminToken, 'sample-unknown-token']) await caller(origin, token)('GET', '/v1/api-keys');
    await expect.poll(() => lines).toHaveLength(2);
    expect(lines).toMatchObject([
      { status: 403, role: 'admin', token: 'operator' },
      { status: 401, role: null, token: null },
    ]);
  });

  it.each(['Basic c2FtcGxl', `bearer  ${gatewayToken} extra`, gatewayToken, `Token ${gatewayToken}`])(
    'refuses the Authorization header %j',
    async (authorization) => {
      const { url } = await temporaryDatabase();
      const { origin } = await startVault(url);
      expect((await fetch(`${origin}/v1/api-keys`, { headers: { authorization } })).status).toBe(401);
    },
  );

  it.each(['bearer', 'BEARER'])('takes the scheme in whatever case, as HTTP does: %s', async (scheme) => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url);
    const headers = { authorization: `${scheme} ${gatewayToken}` };
    expect((await fetch(`${origin}/v1/api-keys`, { headers })).status).toBe(200);
  });

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

describe('a token limited to tenants', () => {
  const forbidden = async (token: string, tenantId?: string | null) => withStatus(await statusesOf(token, tenantId), 403).sort();
  const gatewayRoutes = async () => [...(await statusesOf(null)).keys()].filter((route) => route.includes(' /v1/'));
  const closed = ['GET /v1/tenants', 'POST /v1/decrypt', 'POST /v1/encrypt', 'POST /v1/rewrap'];

  it.each([
    ['of another tenant', 'other'],
    ['of a tenant whose name begins alike', 'acme2'],
    ['of the null tenant, by saying so', null],
    ['of the null tenant, by saying nothing', undefined],
  ])('reaches no row %s, on any route', async (_, tenantId) => {
    const all = await gatewayRoutes();
    const statuses = await statusesOf(limitedGatewayToken, tenantId);
    const reached = all.filter((route) => statuses.get(route) !== 403);
    // null is no text that a query could hold: there it is the same as saying nothing.
    expect(reached.sort()).toEqual(tenantFreeRoutes);
    const ofWriter = await forbidden(limitedWriterToken, tenantId);
    for (const route of writerRoutes) expect(ofWriter).toContain(route);
  });

  it.each(['acme', 'beta'])(
    'reaches the rows of its tenant %s, but neither the stateless calls nor the list of tenants',
    async (tenantId) => {
      const refused = await forbidden(limitedGatewayToken, tenantId);
      expect(refused.filter((route) => route.includes(' /v1/'))).toEqual(closed);
    },
  );

  it('is not let through by a tenant that stands where the route does not look', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'null-tenant', name: 'K' });
    const { origin } = await startVault(url, settings);
    const call = caller(origin, limitedGatewayToken);
    const answers = [
      await call('POST', '/v1/api-keys/decrypt?tenant_id=acme', { name: 'K' }),
      await call('POST', '/v1/api-keys/decrypt-all?tenant_id=acme', {}),
      await call('POST', '/v1/encrypt?tenant_id=acme', { plaintext: 'sample' }),
      await call('GET', '/v1/api-keys?Tenant_id=acme'),
    ];
    expect(answers.map(({ status }) => status)).toEqual([400, 400, 400, 400]);
  });

  it('cannot tell a row of another tenant from none', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'there', name: 'K', tenantId: 'other' });
    const { origin } = await startVault(url, settings);
    const call = caller(origin, limitedGatewayToken);
    const there = await call('GET', '/v1/api-keys/there?tenant_id=other');
    const nowhere = await call('GET', '/v1/api-keys/nowhere?tenant_id=other');
    expect([there.status, there.body.error.message]).toEqual([403, nowhere.body.error.message]);
    expect((await call('GET', '/v1/api-keys/there?tenant_id=acme')).status).toBe(404);
    expect((await call('DELETE', '/v1/api-keys/there?tenant_id=acme')).status).toBe(404);
    expect(await database.rows()).toHaveLength(1);
  });

  it('works on its own tenant from store to delete', async () => {
    const { url } = await temporaryDatabase();
    const { origin } = await startVault(url, settings);
    const writer = caller(origin, limitedWriterToken);
    const gateway = caller(origin, limitedGatewayToken);
    const stored = await writer('POST', '/v1/api-keys', { tenant_id: 'acme', name: 'K', provider: 'openai', value: 'sample-1' });
    expect(stored.status).toBe(201);
    const decrypted = await gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K' });
    expect(decrypted.body.key.value).toBe('sample-1');
    expect((await writer('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K' })).status).toBe(403);
    expect((await writer('DELETE', `/v1/api-keys/${stored.body.key.id}?tenant_id=acme`)).status).toBe(200);
  });
});
