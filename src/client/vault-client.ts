/**
 * Every call that a gateway may make to the vault, typed: retried where that is safe, shared between concurrent callers of the
 * same key, and abortable.
 */

import { randomUUID } from 'node:crypto';
import { hasItems, hasKey, hasOpenedKey, hasText, type IsMeant, isPage } from './answers.ts';
import { isNotDone, VaultClientError, VaultNotFoundError } from './errors.ts';
import { type KeyCacheOptions, KeyReader, type ReadLimits } from './key-reader.ts';
import { withRetries } from './retry.ts';
import { type Call, type CallOptions, Transport } from './transport.ts';
import type * as wire from './wire.ts';

const defaultTimeoutMs = 10_000;
const defaultRetries = 2;
const defaultConnections = 20;
/** Request ids that the vault accepts; any other is replaced by one that the client makes. */
const givenRequestId = /^[\x21-\x7e]{1,128}$/;

export interface VaultClientOptions {
  /** The URL of the vault, such as `http://provara-vault.railway.internal:4100`. */
  readonly url: string;
  /** A gateway token, or a writer token for a dashboard. */
  readonly token: string;
  /** Timeout of one attempt, including connecting and reading the answer; 10 seconds by default. */
  readonly timeoutMs?: number | undefined;
  /** Retries after a transient failure; 2 by default. */
  readonly retries?: number | undefined;
  /** Maximum number of connections; 20 by default. */
  readonly connections?: number | undefined;
  /** No cache by default. */
  readonly cache?: KeyCacheOptions | undefined;
}

/** Omitted or null: the rows whose tenant is null, never all rows. */
export type Tenant = { readonly tenant_id?: string | null | undefined };
type ListKeysOptions = Omit<wire.ListKeysQuery, 'tenant_id'> & Tenant;

/**
 * Every method rejects with the VaultClientError subclass for what happened. A call that failed because the vault or its database
 * was briefly unavailable has been retried by then; a store only if it had certainly not been carried out.
 */
export class VaultClient {
  readonly #transport: Transport;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #keys: KeyReader;

  /** Does not connect yet. Throws TypeError for an invalid option. */
  constructor({ url, token, timeoutMs, retries, connections, cache }: VaultClientOptions) {
    this.#timeoutMs = wholeNumber('timeoutMs', timeoutMs ?? defaultTimeoutMs, 1, 3_600_000);
    this.#retries = wholeNumber('retries', retries ?? defaultRetries, 0, 100);
    this.#transport = new Transport(url, token, wholeNumber('connections', connections ?? defaultConnections, 1, 10_000));
    this.#keys = new KeyReader((body, options, limits) => this.#decryptKey(body, options, limits), cache);
  }

  /**
   * Inserts a key, or replaces the one with that tenant and name. Retried only if the vault refused it or could not be connected
   * to: after a lost answer another caller may have stored a newer key, which a retry would overwrite.
   */
  async storeKey(body: wire.StoreKeyBody, options: CallOptions = {}): Promise<wire.StoreKeyAnswer> {
    const { tenant_id, name } = body;
    try {
      const isMeant = hasKey({ tenant_id, name });
      return (await this.#call(
        { method: 'POST', path: '/v1/api-keys', body, isMeant, isShort: true, mayRepeat: isNotDone },
        options,
      )) as wire.StoreKeyAnswer;
    } finally {
      // Also after a failure: the key may have been stored all the same.
      this.#keys.forget(body);
    }
  }

  /** The plaintext of one key: the hot path. Concurrent calls for the same key share one request. */
  decryptKey(body: wire.DecryptKeyBody, options: CallOptions = {}): Promise<wire.DecryptedKey> {
    return this.#keys.read(body, options);
  }

  /** A page of a tenant's keys, masked. */
  async listKeys(query: ListKeysOptions = {}, options: CallOptions = {}): Promise<wire.ListKeysAnswer> {
    const isMeant = isPage('keys', query.cursor, { tenant_id: query.tenant_id ?? null });
    return (await this.#call({ method: 'GET', path: '/v1/api-keys', query, isMeant }, options)) as wire.ListKeysAnswer;
  }

  /** All of a tenant's keys, masked, fetched page by page. */
  async *eachKey(query: Omit<ListKeysOptions, 'cursor'> = {}, options: CallOptions = {}): AsyncGenerator<wire.ApiKey, void> {
    for await (const page of pages((cursor) => this.listKeys({ ...query, cursor }, options))) yield* page.keys;
  }

  /** One key, masked. */
  async getKey(id: string, { tenant_id }: Tenant = {}, options: CallOptions = {}): Promise<wire.ApiKey> {
    const isMeant = hasKey({ tenant_id, id });
    try {
      const call: Call = { method: 'GET', path: keyPath(id), query: { tenant_id }, isMeant, isShort: true };
      return ((await this.#call(call, options)) as wire.GetKeyAnswer).key;
    } catch (error) {
      if (error instanceof VaultNotFoundError) this.#keys.forgetId(id);
      throw error;
    }
  }

  /** Rejects with VaultNotFoundError if there is no such key, unless an earlier attempt of this call may have deleted it. */
  async deleteKey(id: string, { tenant_id }: Tenant = {}, options: CallOptions = {}): Promise<void> {
    const isMeant: IsMeant = ({ deleted }) => deleted === true;
    try {
      await this.#call(
        { method: 'DELETE', path: keyPath(id), query: { tenant_id }, isMeant, isShort: true, isDone: isDeletedBefore },
        options,
      );
    } finally {
      this.#keys.forgetId(id);
    }
  }

  /** A page of the plaintexts of a tenant's keys; each entry has its value, or the error that kept it from opening. */
  async decryptAllKeys(body: wire.DecryptAllBody = {}, options: CallOptions = {}): Promise<wire.DecryptAllAnswer> {
    const isMeant = isPage('keys', body.cursor);
    return (await this.#post('/v1/api-keys/decrypt-all', body, isMeant, options)) as wire.DecryptAllAnswer;
  }

  /** The plaintexts of all of a tenant's keys, fetched page by page. They do not enter the cache. */
  async *eachDecryptedKey(tenant: Tenant = {}, options: CallOptions = {}): AsyncGenerator<wire.DecryptedEntry, void> {
    for await (const page of pages((cursor) => this.decryptAllKeys({ ...tenant, cursor }, options))) yield* page.keys;
  }

  /** A page of the tenants that have keys, with their key counts. The null tenant is included. */
  async listTenants(query: wire.TenantsQuery = {}, options: CallOptions = {}): Promise<wire.TenantsAnswer> {
    const isMeant = isPage('tenants', query.cursor);
    return (await this.#call({ method: 'GET', path: '/v1/tenants', query, isMeant }, options)) as wire.TenantsAnswer;
  }

  /** All tenants that have keys, fetched page by page. */
  async *eachTenant(
    query: Omit<wire.TenantsQuery, 'cursor'> = {},
    options: CallOptions = {},
  ): AsyncGenerator<wire.TenantCount, void> {
    for await (const page of pages((cursor) => this.listTenants({ ...query, cursor }, options))) yield* page.tenants;
  }

  /** Whether the vault holds the master key that a store needs. */
  async isConfigured(options: CallOptions = {}): Promise<boolean> {
    const isMeant: IsMeant = ({ configured }) => typeof configured === 'boolean';
    const answer = await this.#call({ method: 'GET', path: '/v1/api-keys/status', isMeant, isShort: true }, options);
    return (answer as wire.StatusAnswer).configured;
  }

  /** Encrypts a text, which the caller keeps and the vault can decrypt. */
  async encrypt(item: wire.EncryptItem, options: CallOptions = {}): Promise<wire.EncryptResult> {
    return (await this.#post('/v1/encrypt', item, hasText('ciphertext'), options)) as wire.EncryptResult;
  }

  /** Decrypts the result of {@link encrypt}, or the three columns of a format-1 row. */
  async decrypt(item: wire.CiphertextItem, options: CallOptions = {}): Promise<wire.DecryptResult> {
    return (await this.#post('/v1/decrypt', item, hasText('plaintext'), options)) as wire.DecryptResult;
  }

  /** Re-encrypts under the active master key; the plaintext stays in the vault. */
  async rewrap(item: wire.CiphertextItem, options: CallOptions = {}): Promise<wire.EncryptResult> {
    return (await this.#post('/v1/rewrap', item, hasText('ciphertext'), options)) as wire.EncryptResult;
  }

  /** At most 1,000 items; the results are in the same order, each a result or an error. */
  async encryptMany(items: readonly wire.EncryptItem[], options: CallOptions = {}): Promise<wire.EncryptBatchAnswer> {
    return (await this.#post('/v1/encrypt', { items }, hasItems(items.length), options)) as wire.EncryptBatchAnswer;
  }

  /** As {@link encryptMany}. */
  async decryptMany(items: readonly wire.CiphertextItem[], options: CallOptions = {}): Promise<wire.DecryptBatchAnswer> {
    return (await this.#post('/v1/decrypt', { items }, hasItems(items.length), options)) as wire.DecryptBatchAnswer;
  }

  /** As {@link encryptMany}. */
  async rewrapMany(items: readonly wire.CiphertextItem[], options: CallOptions = {}): Promise<wire.EncryptBatchAnswer> {
    return (await this.#post('/v1/rewrap', { items }, hasItems(items.length), options)) as wire.EncryptBatchAnswer;
  }

  /** Makes the next decrypt ask the vault: for when a provider refuses a key that another process may have replaced. */
  forgetKey(body: wire.DecryptKeyBody): void {
    this.#keys.forget(body);
  }

  /** Forgets every cached key, and closes the connections once the calls in flight are done. */
  async close(): Promise<void> {
    this.#keys.forgetAll();
    await this.#transport.close();
  }

  async #decryptKey(body: wire.DecryptKeyBody, options: CallOptions, limits: ReadLimits): Promise<wire.DecryptedKey> {
    const call: Call = { method: 'POST', path: '/v1/api-keys/decrypt', body, isMeant: hasOpenedKey(body), isShort: true };
    const answer = await this.#call(call, options, limits);
    return (answer as wire.DecryptKeyAnswer).key;
  }

  #post(path: string, body: unknown, isMeant: IsMeant, options: CallOptions): Promise<unknown> {
    return this.#call({ method: 'POST', path, body, isMeant }, options);
  }

  async #call(call: RepeatableCall, { signal, requestId = '' }: CallOptions, limits: ReadLimits = {}): Promise<unknown> {
    const id = givenRequestId.test(requestId) ? requestId : randomUUID();
    const timeoutMs = Math.min(this.#timeoutMs, limits.maxTimeoutMs ?? this.#timeoutMs);
    const attempt = async (earlier: readonly VaultClientError[]): Promise<unknown> => {
      try {
        return await this.#transport.attempt(call, { signal, requestId: id, timeoutMs });
      } catch (error) {
        if (error instanceof VaultClientError && error.status === 401) this.#keys.forgetAll();
        if (call.isDone?.(error, earlier)) return null;
        throw error;
      }
    };
    return withRetries(attempt, limits.retries ?? this.#retries, signal, call.mayRepeat);
  }
}

interface RepeatableCall extends Call {
  /** Whether a failed retry shows that an earlier attempt had carried out the call. */
  readonly isDone?: (error: unknown, earlier: readonly VaultClientError[]) => boolean;
  /** After which failures the call may be retried; by default after every transient one. */
  readonly mayRepeat?: (error: unknown) => boolean;
}

function isDeletedBefore(error: unknown, earlier: readonly VaultClientError[]): boolean {
  return error instanceof VaultNotFoundError && earlier.some((each) => !isNotDone(each));
}

function wholeNumber(name: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new TypeError(`${name} must be a whole number from ${min} to ${max}.`);
}

function keyPath(id: string): string {
  return `/v1/api-keys/${encodeURIComponent(id)}`;
}

async function* pages<Page extends { readonly next_cursor: string | null }>(
  load: (cursor: string | undefined) => Promise<Page>,
): AsyncGenerator<Page, void> {
  let cursor: string | undefined;
  do {
    const page = await load(cursor);
    yield page;
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
}
