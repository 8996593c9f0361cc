/** `/v1/api-keys` and `/v1/tenants`: store, list, open and delete provider keys. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { isLabel } from '../../contract/formats.ts';
import { presentApiKey } from '../../contract/presenters.ts';
import * as schemas from '../../contract/schemas.ts';
import type { TenantCount } from '../../store/api-keys.ts';
import type { ApiKeys, DecryptedEntry } from '../../vault/api-keys.ts';
import { actorOf } from '../auth.ts';
import { decodeCursor, encodeCursor } from '../cursor.ts';
import type { RateLimits } from '../rate-limits.ts';

const tags = ['Provider keys'];
const decryptAllPage = 100;
const placeInKeys = /^(?:text|blob):(?:[0-9A-F]{2})*$/;
const placeInTenants = /^(?:[0-9A-F]{2})*$/;

/** Routes for writer tokens too: none of them answers with a plaintext. */
export function apiKeyRoutes(apiKeys: ApiKeys): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post('/api-keys', {
      schema: {
        operationId: 'storeKey',
        summary: 'Store a provider key, or replace the one of that tenant and name',
        tags,
        body: schemas.StoreBody,
        response: { 200: schemas.StoreAnswer, 201: schemas.StoreAnswer, ...schemas.errorAnswers },
      },
      handler: async (request, reply) => {
        const { body } = request;
        const { key, isReplaced } = await apiKeys.store(actorOf(request), { ...body, tenantId: body.tenant_id ?? null });
        return reply.code(isReplaced ? 200 : 201).send({ key: presentApiKey(key), updated: isReplaced });
      },
    });

    app.get('/api-keys', {
      schema: {
        operationId: 'listKeys',
        summary: 'List a tenant’s provider keys, masked',
        tags,
        querystring: schemas.ListQuery,
        response: { 200: schemas.ListAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ query }) => {
        const after = query.cursor === undefined ? null : decodeCursor(query.cursor, placeInKeys);
        const page = await apiKeys.list(query.tenant_id ?? null, query.provider ?? null, { limit: query.limit ?? 100, after });
        return { keys: page.items.map(presentApiKey), next_cursor: page.next && encodeCursor(page.next) };
      },
    });

    app.get('/api-keys/:id', {
      schema: {
        operationId: 'getKey',
        summary: 'One provider key, masked',
        tags,
        params: schemas.IdParams,
        querystring: schemas.TenantQuery,
        response: { 200: schemas.GetAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ params, query }) => ({ key: presentApiKey(await apiKeys.get(query.tenant_id ?? null, params.id)) }),
    });

    app.delete('/api-keys/:id', {
      schema: {
        operationId: 'deleteKey',
        summary: 'Delete a provider key',
        tags,
        params: schemas.IdParams,
        querystring: schemas.TenantQuery,
        response: { 200: schemas.DeleteAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const { params, query } = request;
        await apiKeys.delete(actorOf(request), query.tenant_id ?? null, params.id);
        return { deleted: true as const };
      },
    });
  };
}

/** Routes for gateway tokens only: opening keys, and listing the tenants. */
export function keyOpeningRoutes(apiKeys: ApiKeys, rateLimits: RateLimits): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post('/api-keys/decrypt', {
      schema: {
        operationId: 'decryptKey',
        summary: 'The plaintext of one provider key, by name',
        tags,
        body: schemas.DecryptKeyBody,
        response: { 200: schemas.DecryptKeyAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const { body } = request;
        await rateLimits.countDecrypts(request, 1);
        const { id, tenantId, name, provider, value } = await apiKeys.decrypt(
          actorOf(request),
          body.tenant_id ?? null,
          body.name,
        );
        return { key: { id, tenant_id: tenantId, name, provider, value } };
      },
    });

    app.post('/api-keys/decrypt-all', {
      schema: {
        operationId: 'decryptAllKeys',
        summary: 'The plaintexts of all of a tenant’s provider keys, in pages',
        tags,
        body: schemas.DecryptAllBody,
        response: { 200: schemas.DecryptAllAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const { body } = request;
        const after = body.cursor === undefined ? null : decodeCursor(body.cursor, placeInKeys);
        const beforeOpening = (rows: number): Promise<void> => rateLimits.countDecrypts(request, rows);
        const pageRequest = { limit: decryptAllPage, after, beforeOpening };
        const page = await apiKeys.decryptAll(actorOf(request), body.tenant_id ?? null, pageRequest);
        return { keys: page.items.map(presentEntry), next_cursor: page.next && encodeCursor(page.next) };
      },
    });

    app.get('/tenants', {
      schema: {
        operationId: 'listTenants',
        summary: 'The tenants that have provider keys, and how many',
        tags,
        querystring: schemas.TenantsQuery,
        response: { 200: schemas.TenantsAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ query }) => {
        const limit = query.limit ?? 100;
        const after = query.cursor === undefined ? null : { position: decodeCursor(query.cursor, placeInTenants) };
        const found = await apiKeys.tenants(limit + 1, after);
        const shown = found.slice(0, limit);
        const last = found.length > limit ? shown.at(-1) : undefined;
        return {
          tenants: shown.filter(canBeNamed).map(({ tenantId, keys }) => ({ tenant_id: tenantId, keys })),
          next_cursor: last === undefined ? null : encodeCursor(last.position),
        };
      },
    });
  };
}

/** Another program may have stored a tenant id that no call can name; no call reaches its rows. */
function canBeNamed({ tenantId }: TenantCount): boolean {
  return tenantId === null || isLabel(tenantId);
}

/** Kept apart from the others, because it concerns no tenant's rows. */
export function keyStatusRoutes(apiKeys: ApiKeys): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/api-keys/status', {
      schema: {
        operationId: 'getStatus',
        summary: 'Whether the vault holds the master key that it needs to store',
        tags,
        response: { 200: schemas.StatusAnswer, ...schemas.errorAnswers },
      },
      handler: async () => ({ configured: await apiKeys.isConfigured() }),
    });
  };
}

function presentEntry(entry: DecryptedEntry) {
  const { id, name, provider } = entry;
  return 'error' in entry ? { id, name, provider, error: entry.error.toAnswer() } : { id, name, provider, value: entry.value };
}
