/**
 * Authenticates callers by comparing digests in constant time, and limits each role to its routes and each token to its tenants.
 */

import { timingSafeEqual } from 'node:crypto';
import type { FastifyRequest, onRequestHookHandler, preHandlerHookHandler } from 'fastify';
import type { Actor } from '../audit/event.ts';
import { AuthError, ForbiddenError } from '../errors.ts';
import { digestOf, type Role, type Token } from '../tokens.ts';
import type { RateLimits } from './rate-limits.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** The authenticated caller; null on routes that need no token. */
    caller: Token | null;
  }
}

/**
 * A hook that admits tokens of these roles before the body is read. Throws AuthError or ForbiddenError, and RateLimitedError in
 * place of AuthError once an address has failed too often; a known token is still admitted.
 */
export function requireRole(
  tokens: readonly Token[],
  roles: readonly Role[],
  rateLimits: Pick<RateLimits, 'countFailure'>,
): onRequestHookHandler {
  return (request, _reply, done) => {
    const caller = authenticate(tokens, request.headers.authorization);
    // Set for a refused caller too: the log names it.
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
 * A hook that runs after validation: a token limited to tenants is admitted only if the call names one of them. A call that names
 * none concerns the null tenant, or no tenant, and neither belongs to such a token. Throws ForbiddenError.
 */
export const requireTenant: preHandlerHookHandler = (request, _reply, done) => {
  const { caller } = request;
  if (caller === null || caller.tenants === null) return done();
  const tenantId = namedTenant(request);
  if (tenantId === null) done(new ForbiddenError(`The token ${caller.name} is limited to tenants, and this call names none.`));
  else if (!caller.tenants.has(tenantId)) done(new ForbiddenError(`The token ${caller.name} is limited to other tenants.`));
  else done();
};

/** The actor in audit records of this call; for routes that need a token. */
export function actorOf({ caller, id }: FastifyRequest): Actor {
  return { name: caller?.name ?? 'unknown', role: caller?.role ?? 'unknown', requestId: id };
}

/** Reads the field where the handler reads it: in the body if the route has one, otherwise in the query. */
function namedTenant({ routeOptions, body, query }: FastifyRequest): string | null {
  const source: unknown = routeOptions.schema?.body === undefined ? query : body;
  if (typeof source !== 'object' || source === null || !('tenant_id' in source)) return null;
  return typeof source.tenant_id === 'string' ? source.tenant_id : null;
}

/** Compares with every token, even after a match, so that the duration reveals nothing. */
function authenticate(tokens: readonly Token[], authorization: string | undefined): Token | null {
  const [, presented] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? [];
  if (presented === undefined) return null;
  const digest = digestOf(presented);
  let caller: Token | null = null;
  for (const token of tokens) if (timingSafeEqual(token.digest, digest)) caller = token;
  return caller;
}
