/** Decrypts keys by name: concurrent reads of a key share one request, and an optional cache answers without any. */

import { LRUCache } from 'lru-cache';
import { isUnreachable, VaultClientError } from './errors.ts';
import { SingleFlight } from './single-flight.ts';
import type { CallOptions } from './transport.ts';
import type { DecryptedKey, DecryptKeyBody } from './wire.ts';

const defaultMaxEntries = 1_000;
/** The longest that a plaintext may stay in memory; timers, too, are limited to some weeks. */
const maxKeptMs = 86_400_000;
/**
 * With a stale entry at hand the vault gets one attempt with this timeout, and after a failure is asked again this much later.
 */
const refreshTimeoutMs = 1_000;
const askAgainAfterMs = 1_000;

/** Decrypted keys in the memory of this process, bounded in number and time. */
export interface KeyCacheOptions {
  /** How long a decrypted key is served without asking the vault. */
  readonly ttlMs: number;
  /** How much longer it is served while the vault cannot be reached. The default, 0, is not at all. */
  readonly staleMs?: number | undefined;
  /** Above this number the least recently used entries are dropped; 1,000 by default. */
  readonly maxEntries?: number | undefined;
  /** Called at most once a second for each key, with the error because of which a stale key was served. */
  readonly onStale?: ((error: VaultClientError) => void) | undefined;
}

/** How a refresh differs from an ordinary call. */
export interface ReadLimits {
  readonly retries?: number;
  readonly maxTimeoutMs?: number;
}

type Fetch = (body: DecryptKeyBody, options: CallOptions, limits: ReadLimits) => Promise<DecryptedKey>;

interface Entry {
  readonly key: DecryptedKey;
  /** By `performance.now()`. */
  freshUntilMs: number;
  readonly staleUntilMs: number;
}

export class KeyReader {
  readonly #fetch: Fetch;
  readonly #singleFlight = new SingleFlight<DecryptedKey>();
  readonly #cache: LRUCache<string, Entry> | null;
  readonly #ttlMs: number;
  readonly #staleMs: number;
  readonly #onStale: KeyCacheOptions['onStale'];

  /** Throws TypeError for invalid cache limits. */
  constructor(fetch: Fetch, options: KeyCacheOptions | undefined) {
    this.#fetch = fetch;
    this.#ttlMs = options?.ttlMs ?? 0;
    this.#staleMs = options?.staleMs ?? 0;
    this.#onStale = options?.onStale;
    const max = options?.maxEntries ?? defaultMaxEntries;
    if (options !== undefined && !(this.#ttlMs > 0 && this.#staleMs >= 0 && this.#ttlMs + this.#staleMs <= maxKeptMs)) {
      throw new TypeError('cache.ttlMs must be more than 0, cache.staleMs at least 0, and the two together at most a day.');
    }
    if (!(Number.isInteger(max) && max >= 1)) throw new TypeError('cache.maxEntries must be a whole number of at least 1.');
    // A timer for each entry removes it from memory when it expires.
    const ttl = Math.ceil(this.#ttlMs + this.#staleMs);
    this.#cache = options === undefined ? null : new LRUCache({ max, ttl, ttlAutopurge: true });
  }

  async read(body: DecryptKeyBody, { signal, requestId }: CallOptions): Promise<DecryptedKey> {
    signal?.throwIfAborted();
    const name = cacheKey(body);
    const entry = this.#cache?.get(name);
    if (entry !== undefined && performance.now() < entry.freshUntilMs) return entry.key;
    return this.#singleFlight.join(
      name,
      (shared, isCurrent) => this.#ask(name, body, { signal: shared, requestId }, isCurrent),
      signal,
    );
  }

  /** Later reads ask the vault again. */
  forget(body: DecryptKeyBody): void {
    const name = cacheKey(body);
    this.#cache?.delete(name);
    this.#singleFlight.forget(name);
  }

  forgetId(id: string): void {
    for (const [name, entry] of this.#cache?.entries() ?? []) if (entry.key.id === id) this.#cache?.delete(name);
    this.#singleFlight.forget();
  }

  forgetAll(): void {
    this.#cache?.clear();
    this.#singleFlight.forget();
  }

  async #ask(name: string, body: DecryptKeyBody, options: CallOptions, isCurrent: () => boolean): Promise<DecryptedKey> {
    const limits = this.#stale(name) === undefined ? {} : { retries: 0, maxTimeoutMs: refreshTimeoutMs };
    try {
      const key = Object.freeze(await this.#fetch(body, options, limits));
      if (isCurrent()) this.#keep(name, key);
      return key;
    } catch (error) {
      return this.#answerStale(name, error);
    }
  }

  #keep(name: string, key: DecryptedKey): void {
    const freshUntilMs = performance.now() + this.#ttlMs;
    this.#cache?.set(name, { key, freshUntilMs, staleUntilMs: freshUntilMs + this.#staleMs });
  }

  /** Throws the error unless the vault was unreachable: an answer that the vault refused is not served from memory. */
  #answerStale(name: string, error: unknown): DecryptedKey {
    if (error instanceof VaultClientError && isRefusal(error)) this.#cache?.delete(name);
    // Looked up again: in the meantime another call may have been refused, or have replaced the entry.
    const entry = isUnreachable(error) ? this.#stale(name) : undefined;
    if (entry === undefined) throw error;
    entry.freshUntilMs = Math.min(performance.now() + askAgainAfterMs, entry.staleUntilMs);
    void this.#tellStale(error as VaultClientError);
    return entry.key;
  }

  /** A failing `onStale` does not affect the answer. */
  async #tellStale(error: VaultClientError): Promise<void> {
    try {
      await this.#onStale?.(error);
    } catch {
      // The key is served all the same.
    }
  }

  #stale(name: string): Entry | undefined {
    const entry = this.#cache?.get(name);
    return entry !== undefined && performance.now() < entry.staleUntilMs ? entry : undefined;
  }
}

/** Unambiguous for any tenant and name. */
function cacheKey({ tenant_id = null, name }: DecryptKeyBody): string {
  return JSON.stringify([tenant_id, name]);
}

/** 401, 403 and 404 among them; a 429 says nothing about the key. */
function isRefusal({ status }: VaultClientError): boolean {
  return status !== null && status >= 400 && status < 500 && status !== 429;
}
