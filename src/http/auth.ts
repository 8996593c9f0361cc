/** Tells who calls, by comparing digests in constant time, and keeps each role to its own routes and each token to its tenants. */

import { timingSafeEqual } from 'node:crypto';
import type { FastifyRequest, onRequestHookHandler, preHandlerHookHandler } from 'fastify';
import type { Actor } from '../audit/event.ts';
import { AuthError, ForbiddenError } from '../errors.ts';
import { digestOf, type Role, type Token } from '../tokens.ts';
import type { RateLimits } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; null on routes that need no token. */
    caller: Token | null;
  }
}

/**
 * A hook that lets tokens of these roles pass, before the body is read. Throws AuthError or ForbiddenError, and RateLimitedError
 * in place of AuthError once an address has failed too often; a known token passes all the same.
 */
export function requireRole(
  tokens: readonly Token[],
  roles: readonly Role[],
  rateLimits: Pick<RateLimits, 'countFailure'>,
): onRequestHookHandler {
  return (request, _reply, done) => {
    const caller = authenticate(tokens, request.headers.authorization);
    // Also of a caller that is refused: the log names it.
    request.caller = caller;
    if (caller === null) void refuse(request, rateLimits).catch(done);
    else if (roles.includes(caller.role)) done();
    else {
      const { name, role } = caller;
      done(new ForbiddenError(`The token ${name} has the role ${role}; this route is for ${roles.join(' and ')} tokens.`));
    }
  };
}

async function refuse(request: FastifyRequest, rateLimits: Pick<RateLimits, 'countFailure'>): Promise<never> {
  await rateLimits.countFailure(request);
  throw new AuthError('A known token is required: send Authorization: Bearer <token>.');
}

/**
 * A hook for after validation: a token limited to tenants passes only where the call names one of them. A call that names
 * none is about the null tenant, or about no tenant at all, and neither is such a token's. Throws ForbiddenError.
 */
export const requireTenant: preHandlerHookHandler = (request, _reply, done) => {
  const { caller } = request;
  if (caller === null || caller.tenants === null) return done();
  const tenantId = namedTenant(request);
  if (tenantId === null) done(new ForbiddenError(`The token ${caller.name} is limited to tenants, and this call names none.`));
  else if (!caller.tenants.has(tenantId)) done(new ForbiddenError(`The token ${caller.name} is limited to other tenants.`));
  else done();
};

/** Who is on record as having made the call; of a route behind a token. */
export function actorOf({ caller, id }: FastifyRequest): Actor {
  return { name: caller?.name ?? 'unknown', role: caller?.role ?? 'unknown', requestId: id };
}

/** Read where the handler reads it: the body where the route has one, otherwise the query. */
function namedTenant({ routeOptions, body, query }: FastifyRequest): string | null {
  const source: unknown = routeOptions.schema?.body === undefined ? query : body;
  if (typeof source !== 'object' || source === null || !('tenant_id' in source)) return null;
  return typeof source.tenant_id === 'string' ? source.tenant_id : null;
}

/** Compares with every token, also after a match, so that the time tells nothing. */
function authenticate(tokens: readonly Token[], authorization: string | undefined): Token | null {
  const [, presented] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? [];
  if (presented === undefined) return null;
  const digest = digestOf(presented);
  let caller: Token | null = null;
  for (const token of tokens) if (timingSafeEqual(token.digest, digest)) caller = token;
  return caller;
}
