/** Counts failed authentications by address and opened rows by token, per minute and process, and refuses calls above a limit. */

import { fastifyRateLimit } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { LRUCache } from 'lru-cache';
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
/** Above this number the counts of those who have not called for longest are dropped. */
const maxCallers = 5_000;

type OnCounted = (error: null, result: { readonly current: number; readonly ttl: number }) => void;

/**
 * Counts calls in windows of a minute by a clock that is never set. The library's own counts go by the time of day: set back, it
 * would keep a window open, and its callers refused, until it had caught up.
 */
class MinuteCounts {
  readonly #counts = new LRUCache<string, { current: number }>({ max: maxCallers, ttl: minuteMs });

  incr(key: string, onCounted: OnCounted): void {
    const counted = this.#counts.get(key) ?? { current: 0 };
    counted.current += 1;
    if (counted.current === 1) this.#counts.set(key, counted);
    onCounted(null, { ...counted, ttl: this.#counts.getRemainingTTL(key) });
  }

  read(key: string, onCounted: OnCounted): void {
    const current = this.#counts.get(key)?.current ?? 0;
    onCounted(null, { current, ttl: this.#counts.getRemainingTTL(key) });
  }

  child(): MinuteCounts {
    return new MinuteCounts();
  }
}

export async function createRateLimits(app: FastifyInstance, limits: Limits): Promise<RateLimits> {
  await app.register(fastifyRateLimit, { global: false, timeWindow: minuteMs, store: MinuteCounts });
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
      // Without an address the connection has been reset: there is nobody to count, or to answer.
      if (limits.authFailures === 0 || request.socket.remoteAddress === undefined) return;
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
