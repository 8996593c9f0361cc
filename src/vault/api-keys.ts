/** Stores, lists and opens the tenants' provider keys. A plaintext leaves only as the answer to a decrypt. */

import { randomUUID } from 'node:crypto';
import type { Keyring } from '../crypto/keyring.ts';
import { type RowBinding, rowFormatOf, sealRow } from '../crypto/row.ts';
import { ConfigurationError, DecryptFailedError, NotFoundError, StorageUnavailableError, type VaultError } from '../errors.ts';
import type { ActiveKey } from '../keys/active-key.ts';
import type { SealMeter } from '../keys/seal-meter.ts';
import type { ApiKeyRow, ApiKeyStore, PageRequest, StoredApiKey, TenantCount } from '../store/api-keys.ts';
import { apiKeysTable } from '../store/encrypted-tables.ts';
import type { VaultObserver } from './observer.ts';
import type { UseRecorder } from './use-recorder.ts';
import { maskValue, normalizeValue, unreadableMask } from './values.ts';

const maxStoreAttempts = 10;

export interface ListedApiKey {
  readonly id: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly maskedValue: string;
  /** The key that opens it, or, where none does, the one that the database names, or null. */
  readonly keyId: string | null;
  /** Unix seconds, as all times here. */
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly lastUsedAt: number | null;
}

export interface DecryptedApiKey {
  readonly id: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly value: string;
}

/** One of many: its failure does not hide the others. */
export type DecryptedEntry =
  | DecryptedApiKey
  | { readonly id: string; readonly name: string; readonly provider: string; readonly error: VaultError };

export interface Page<Item> {
  readonly items: readonly Item[];
  /** Where the next page begins, or null after the last. */
  readonly next: string | null;
}

export interface NewApiKey {
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly value: string;
}

export interface ApiKeysContext {
  readonly store: ApiKeyStore;
  readonly keyring: Keyring;
  readonly activeKey: ActiveKey;
  readonly uses: UseRecorder;
  readonly requireFormat2: boolean;
  readonly seals: SealMeter;
  readonly observer: VaultObserver;
}

export class ApiKeys {
  readonly #store: ApiKeyStore;
  readonly #keyring: Keyring;
  readonly #activeKey: ActiveKey;
  readonly #uses: UseRecorder;
  /** Format 1 is bound to nothing: whoever can write the database can move such a row to another tenant. */
  readonly #requireFormat2: boolean;
  readonly #seals: SealMeter;
  readonly #observer: VaultObserver;

  constructor({ store, keyring, activeKey, uses, requireFormat2, seals, observer }: ApiKeysContext) {
    this.#store = store;
    this.#keyring = keyring;
    this.#activeKey = activeKey;
    this.#uses = uses;
    this.#requireFormat2 = requireFormat2;
    this.#seals = seals;
    this.#observer = observer;
  }

  /**
   * Inserts the key, or replaces the one of that tenant and name. Throws ValidationError for a value that cannot be one,
   * ConfigurationError where the active master key is not in the keyring.
   */
  async store({ tenantId, name, provider, value }: NewApiKey): Promise<{ key: ListedApiKey; isReplaced: boolean }> {
    const normalized = normalizeValue(value);
    const plaintext = Buffer.from(normalized, 'utf8');
    const { row, isReplaced } = await this.#put({ table: apiKeysTable, tenantId, name, provider }, plaintext);
    plaintext.fill(0);
    return { key: { ...row, maskedValue: maskValue(normalized), keyId: row.keyIdHint }, isReplaced };
  }

  async list(tenantId: string | null, provider: string | null, page: PageRequest): Promise<Page<ListedApiKey>> {
    const rows = await this.#store.list(tenantId, provider, { ...page, limit: page.limit + 1 });
    return asPage(rows, page.limit, (row) => this.#masked(row));
  }

  /** Throws NotFoundError also where the id is another tenant's. */
  async get(tenantId: string | null, id: string): Promise<ListedApiKey> {
    const row = await this.#store.findById(tenantId, id);
    if (row === null) throw notFound();
    return this.#masked(row);
  }

  /** Throws NotFoundError also where the id is another tenant's. */
  async delete(tenantId: string | null, id: string): Promise<void> {
    if (!(await this.#store.delete(tenantId, id))) throw notFound();
  }

  /** Throws NotFoundError, DecryptFailedError, or ConfigurationError where only the key is missing. */
  async decrypt(tenantId: string | null, name: string): Promise<DecryptedApiKey> {
    const row = await this.#store.findByName(tenantId, name);
    if (row === null) throw notFound();
    return this.#open(row);
  }

  /** Every name of a tenant, each with the newest row's value or with why it does not open. */
  async decryptAll(tenantId: string | null, page: PageRequest): Promise<Page<DecryptedEntry>> {
    const rows = await this.#store.listNewest(tenantId, { ...page, limit: page.limit + 1 });
    return asPage(rows, page.limit, (row) => this.#openEntry(row));
  }

  async tenants(limit: number, after: { readonly tenantId: string | null } | null): Promise<TenantCount[]> {
    return this.#store.tenants(limit, after);
  }

  /** Whether a store would find its master key. */
  async isConfigured(): Promise<boolean> {
    const keyId = await this.#activeKey.id();
    return keyId !== null && this.#keyring.get(keyId) !== undefined;
  }

  /** A rotation may switch the active key between sealing and writing: the write is then refused, and sealed anew. */
  async #put(binding: RowBinding, plaintext: Buffer): Promise<StoredApiKey> {
    const { tenantId, name, provider } = binding;
    for (let attempt = 1; attempt <= maxStoreAttempts; attempt += 1) {
      const key = await this.#activeKey.sealingKey();
      const sealed = { tenantId, name, provider, keyId: key.id, ...sealRow(key, binding, plaintext) };
      this.#seals.note(key.id);
      const stored = await this.#store.put(sealed, randomUUID(), Math.floor(Date.now() / 1000));
      if (stored !== null) return stored;
      this.#activeKey.forget();
    }
    throw new StorageUnavailableError('The active master key keeps changing: try again.');
  }

  async #openEntry(row: ApiKeyRow): Promise<DecryptedEntry> {
    try {
      return await this.#open(row);
    } catch (error) {
      if (!(error instanceof DecryptFailedError || error instanceof ConfigurationError)) throw error;
      const { id, name, provider } = row;
      return { id, name, provider, error };
    }
  }

  async #open(row: ApiKeyRow): Promise<DecryptedApiKey> {
    const { id, tenantId, name, provider } = row;
    const opened = this.#isRefused(row) ? null : this.#keyring.openRow(bindingOf(row), row, row.keyIdHint);
    if (opened === null) throw await this.#failure(row);
    this.#observer.decrypted(opened.key.id, 'opened');
    this.#uses.note(id, row.lastUsedAt);
    return { id, tenantId, name, provider, value: takeText(opened.plaintext) };
  }

  /** Why a row does not open: a key that is missing is said, anything else is one error. */
  async #failure(row: ApiKeyRow): Promise<VaultError> {
    try {
      if (!this.#isRefused(row)) await this.#activeKey.assertKeyPresent(row.keyIdHint);
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      this.#observer.decrypted(row.keyIdHint, 'key_missing');
      return error;
    }
    this.#observer.decrypted(row.keyIdHint, 'failed');
    return new DecryptFailedError();
  }

  #isRefused(row: ApiKeyRow): boolean {
    return this.#requireFormat2 && rowFormatOf(row) === 1;
  }

  #masked(row: ApiKeyRow): ListedApiKey {
    const opened = this.#isRefused(row) ? null : this.#keyring.openRow(bindingOf(row), row, row.keyIdHint);
    if (opened === null) return { ...row, maskedValue: unreadableMask, keyId: row.keyIdHint };
    return { ...row, maskedValue: maskValue(takeText(opened.plaintext)), keyId: opened.key.id };
  }
}

function bindingOf({ tenantId, name, provider }: ApiKeyRow): RowBinding {
  return { table: apiKeysTable, tenantId, name, provider };
}

function takeText(plaintext: Buffer): string {
  const value = plaintext.toString('utf8');
  plaintext.fill(0);
  return value;
}

/** `rows` holds one more than a page where there is a next one. */
async function asPage<Item>(
  rows: readonly ApiKeyRow[],
  limit: number,
  toItem: (row: ApiKeyRow) => Item | Promise<Item>,
): Promise<Page<Item>> {
  const shown = rows.slice(0, limit);
  const next = rows.length > limit ? (shown.at(-1)?.id ?? null) : null;
  return { items: await Promise.all(shown.map(toItem)), next };
}

function notFound(): NotFoundError {
  return new NotFoundError('There is no such key for this tenant.');
}
