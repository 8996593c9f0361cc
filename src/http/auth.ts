/** Tells who calls, by comparing digests in constant time, and keeps each role to its own routes. */

import { timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { AuthError, ForbiddenError } from '../errors.ts';
import { digestOf, type Role, type Token } from '../tokens.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; null on routes that need no token. */
    caller: Token | null;
  }
}

/** A hook for @fastify/auth that lets tokens of one role pass. Throws AuthError or ForbiddenError. */
export function requireRole(tokens: readonly Token[], role: Role): (request: FastifyRequest) => Promise<void> {
  return async (request) => {
    const caller = authenticate(tokens, request.headers.authorization);
    if (caller === null) {
      throw new AuthError('A known token is required: send Authorization: Bearer <token>.');
    }
    if (caller.role !== role) {
      throw new ForbiddenError(`The token ${caller.name} has the role ${caller.role}; this route is for ${role} tokens.`);
    }
    request.caller = caller;
  };
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
