/** Opens keys by name: one request for those who ask at the same time, and, where a cache is wanted, none while it answers. */

import { LRUCache } from 'lru-cache';
import { isUnreachable, VaultClientError } from './errors.ts';
import { Flights } from './flights.ts';
import type { DecryptedKey, DecryptKeyBody } from './wire.ts';

const defaultMaxEntries = 1_000;
/** Of a plaintext in memory; a timer takes no more than some weeks either. */
const maxKeptMs = 86_400_000;
/** With a stale entry at hand the vault gets one try, so long at most; after a failure it is asked again so much later. */
const refreshTimeoutMs = 1_000;
const askAgainAfterMs = 1_000;

/** Decrypted keys in the memory of this process. Bounded in number and in time. */
export interface KeyCacheOptions {
  /** How long a decrypted key is answered without asking the vault. */
  readonly ttlMs: number;
  /** How much longer it is answered while the vault cannot be reached; 0, the default, is not at all. */
  readonly staleMs?: number | undefined;
  /** The least recently used beyond so many are dropped; 1,000 unless told. */
  readonly maxEntries?: number | undefined;
  /** Told, at most once a second and key, why a stale key was answered. */
  readonly onStale?: ((error: VaultClientError) => void) | undefined;
}

/** How one refresh differs from an ordinary call. */
export interface ReadLimits {
  readonly retries?: number;
  readonly maxTimeoutMs?: number;
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  readonly requestId?: string | undefined;
}

type Fetch = (body: DecryptKeyBody, options: ReadOptions, limits: ReadLimits) => Promise<DecryptedKey>;

interface Entry {
  readonly key: DecryptedKey;
  /** Of `performance.now()`. */
  freshUntilMs: number;
  readonly staleUntilMs: number;
}

export class KeyReader {
  readonly #fetch: Fetch;
  readonly #flights = new Flights<DecryptedKey>();
  readonly #cache: LRUCache<string, Entry> | null;
  readonly #ttlMs: number;
  readonly #staleMs: number;
  readonly #onStale: KeyCacheOptions['onStale'];

  /** Throws TypeError for bounds that are none. */
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
    // A timer of each entry's own takes it out of memory when its time is over.
    const ttl = Math.ceil(this.#ttlMs + this.#staleMs);
    this.#cache = options === undefined ? null : new LRUCache({ max, ttl, ttlAutopurge: true });
  }

  async read(body: DecryptKeyBody, { signal, requestId }: ReadOptions): Promise<DecryptedKey> {
    signal?.throwIfAborted();
    const name = cacheKey(body);
    const entry = this.#cache?.get(name);
    if (entry !== undefined && performance.now() < entry.freshUntilMs) return entry.key;
    return this.#flights.join(
      name,
      (shared, isCurrent) => this.#ask(name, body, { signal: shared, requestId }, isCurrent),
      signal,
    );
  }

  /** Whoever asks from now on gets what the vault says. */
  forget(body: DecryptKeyBody): void {
    const name = cacheKey(body);
    this.#cache?.delete(name);
    this.#flights.forget(name);
  }

  forgetId(id: string): void {
    for (const [name, entry] of this.#cache?.entries() ?? []) if (entry.key.id === id) this.#cache?.delete(name);
    this.#flights.forget();
  }

  forgetAll(): void {
    this.#cache?.clear();
    this.#flights.forget();
  }

  async #ask(name: string, body: DecryptKeyBody, options: ReadOptions, isCurrent: () => boolean): Promise<DecryptedKey> {
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

  /** Throws the error unless the vault was not there to say anything: what it refused is not answered from memory. */
  #answerStale(name: string, error: unknown): DecryptedKey {
    if (error instanceof VaultClientError && isRefusal(error)) this.#cache?.delete(name);
    // Looked up again: meanwhile another call may have been refused, or have replaced it.
    const entry = isUnreachable(error) ? this.#stale(name) : undefined;
    if (entry === undefined) throw error;
    entry.freshUntilMs = Math.min(performance.now() + askAgainAfterMs, entry.staleUntilMs);
    void this.#tellStale(error as VaultClientError);
    return entry.key;
  }

  /** What goes wrong in telling takes nothing from the answer. */
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

/** No two pairs share one, whatever is in them. */
function cacheKey({ tenant_id = null, name }: DecryptKeyBody): string {
  return JSON.stringify([tenant_id, name]);
}

/** 401, 403 and 404 among them; a 429 says nothing of the key. */
function isRefusal({ status }: VaultClientError): boolean {
  return status !== null && status >= 400 && status < 500 && status !== 429;
}
