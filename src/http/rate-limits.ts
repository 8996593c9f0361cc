/** Counts failed authentications by address and opened rows by token, per minute and process, and refuses calls above a limit. */

import { fastifyRateLimit } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { RateLimitedError } from '../errors.ts';

/** Each per minute; 0 disables the limit. */
export interface Limits {
  readonly authFailures: number;
  readonly decrypts: number;
}

export interface RateLimits {
  /** Throws RateLimitedError once the caller's address has failed too often. */
  readonly countFailure: (request: FastifyRequest) => Promise<void>;
  /**
   * Call before answering with plaintexts of these rows; rows that are missing or do not open count too. Throws RateLimitedError
   * if they are too many for the caller's token.
   */
  readonly countDecrypts: (request: FastifyRequest, rows: number) => Promise<void>;
}

const minuteMs = 60_000;

export async function createRateLimits(app: FastifyInstance, limits: Limits): Promise<RateLimits> {
  await app.register(fastifyRateLimit, { global: false, timeWindow: minuteMs });
  const limiter = (max: number, keyGenerator?: (request: FastifyRequest) => string) =>
    app.createRateLimit({ max, timeWindow: minuteMs, ...(keyGenerator && { keyGenerator }) });
  type Limiter = ReturnType<typeof limiter>;
  const failures = limiter(limits.authFailures);
  const decrypts = limiter(limits.decrypts, callerName);

  const take = async (limit: Limiter, request: FastifyRequest, message: string): Promise<void> => {
    const state = await limit(request);
    if (!state.isAllowed && state.isExceeded) throw new RateLimitedError(message, state.ttlInSeconds);
  };

  return {
    countFailure: async (request) => {
      if (limits.authFailures === 0) return;
      await take(failures, request, 'Too many failed authentications from this address.');
    },
    countDecrypts: async (request, rows) => {
      if (limits.decrypts === 0) return;
      const message = `The token may open ${limits.decrypts} row(s) a minute.`;
      // A batch that does not fit is refused before it is counted, so that it does not use up what is left for single calls.
      const state = await decrypts(request, { increment: false });
      if (!state.isAllowed && state.remaining < rows) throw new RateLimitedError(message, state.ttlInSeconds || minuteMs / 1000);
      for (let row = 0; row < rows; row += 1) await take(decrypts, request, message);
    },
  };
}

function callerName({ caller }: FastifyRequest): string {
  return caller === null ? '' : `${caller.role} ${caller.name}`;
}
