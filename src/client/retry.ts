/** Retries after transient failures: exponential backoff with full jitter, never sooner than the vault allows. */

import { setTimeout as sleep } from 'node:timers/promises';
import { isUnreachable, type VaultClientError, VaultRateLimitedError } from './errors.ts';

const baseDelayMs = 50;
const maxDelayMs = 1_000;
/** A longer Retry-After is not waited for: the error carries it to the caller. */
const maxRetryAfterMs = 5_000;

/**
 * Retries up to `retries` times, and only after failures that `mayRepeat` accepts. Rejects with the last error, or with the
 * signal's reason.
 */
export async function withRetries<Result>(
  operation: (earlier: readonly VaultClientError[]) => Promise<Result>,
  retries: number,
  signal: AbortSignal | undefined,
  mayRepeat: (error: unknown) => boolean = () => true,
): Promise<Result> {
  const failures: VaultClientError[] = [];
  for (;;) {
    try {
      return await operation(failures);
    } catch (error) {
      const delayMs = failures.length < retries && mayRepeat(error) ? delayBefore(error, failures.length) : null;
      if (delayMs === null) throw error;
      failures.push(error as VaultClientError);
      await pause(delayMs, signal);
    }
  }
}

/** Null if a retry would not help, or would come too late. */
function delayBefore(error: unknown, attempt: number): number | null {
  if (!(error instanceof VaultRateLimitedError || isUnreachable(error))) return null;
  const atLeastMs = (error.retryAfterSeconds ?? 0) * 1000;
  if (atLeastMs > maxRetryAfterMs) return null;
  return atLeastMs + Math.random() * Math.min(maxDelayMs, baseDelayMs * 2 ** attempt);
}

async function pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(delayMs, undefined, signal === undefined ? {} : { signal });
  } catch {
    signal?.throwIfAborted();
  }
}
