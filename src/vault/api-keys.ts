/** Stores, lists and opens the tenants' provider keys. A plaintext leaves only as the answer to a decrypt. */

import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import pLimit from 'p-limit';
import type { Actor, AuditEvent } from '../audit/event.ts';
import type { AuditJournal } from '../audit/journal.ts';
import type { AuditLog } from '../audit/log.ts';
import type { Keyring, OpenedRow } from '../crypto/keyring.ts';
import { type RowBinding, rowFormatOf, sealRow } from '../crypto/row.ts';
import { ConfigurationError, DecryptFailedError, NotFoundError, StorageUnavailableError, VaultError } from '../errors.ts';
import type { ActiveKey } from '../keys/active-key.ts';
import type { SealMeter } from '../keys/seal-meter.ts';
import {
  type ApiKeyRow,
  type ApiKeyStore,
  type Page,
  type PageRequest,
  rowIdGuard,
  type SealedApiKey,
  type TenantCount,
} from '../store/api-keys.ts';
import { apiKeysTable } from '../store/encrypted-rows.ts';
import { GuardFailedError } from '../store/guards.ts';
import type { VaultObserver } from './observer.ts';
import type { UseRecorder } from './use-recorder.ts';
import { maskValue, normalizeValue, unreadableMask } from './values.ts';

const maxStoreAttempts = 10;

/** Why a store must be prepared again, and what its caller is told after the last attempt. */
type StaleReason = 'active_key' | 'row';
const staleMessages: Readonly<Record<StaleReason, string>> = {
  active_key: 'The active master key keeps changing: try again. Nothing was written.',
  row: 'Others keep storing and deleting this name: try again. Nothing was written.',
};

export interface ListedApiKey {
  readonly id: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly maskedValue: string;
  /** The key that opens the row; if none does, the one that the database names, or null. */
  readonly keyId: string | null;
  /** All times here are in Unix seconds. */
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly lastUsedAt: number | null;
}

interface StoredApiKey {
  readonly row: Omit<ListedApiKey, 'maskedValue'>;
  /** False if the row is new. */
  readonly isReplaced: boolean;
}

export interface DecryptedApiKey {
  readonly id: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly value: string;
}

interface OpenedApiKey {
  readonly key: DecryptedApiKey;
  /** The master key that opened the value. */
  readonly keyId: string;
  readonly lastUsedAt: number | null;
}

/** One of many: a failed entry does not hide the others. */
export type DecryptedEntry =
  | DecryptedApiKey
  | { readonly id: string; readonly name: string; readonly provider: string; readonly error: VaultError };

export interface OpeningRequest extends PageRequest {
  /** Called with the number of rows; if it throws, none is opened. */
  readonly beforeOpening: (rows: number) => Promise<void>;
}

export type NewApiKey = Omit<DecryptedApiKey, 'id'>;

export interface ApiKeysContext {
  readonly store: ApiKeyStore;
  readonly keyring: Keyring;
  readonly activeKey: ActiveKey;
  readonly uses: UseRecorder;
  readonly log: AuditLog;
  readonly journal: AuditJournal;
  /**
   * Refuses rows in format 1, which is bound to nothing: anyone who can write to the database could move such a row to another
   * tenant.
   */
  readonly requireFormat2: boolean;
  readonly seals: SealMeter;
  readonly observer: VaultObserver;
}

export class ApiKeys {
  readonly #context: ApiKeysContext;
  /** Each page gets a turn of the event loop of its own: all in one would keep every other call waiting for the last of them. */
  readonly #turns = pLimit(1);

  constructor(context: ApiKeysContext) {
    this.#context = context;
  }

  /**
   * Inserts the key, or replaces the one of that tenant and name. Throws ValidationError for an unacceptable value, and
   * ConfigurationError if the active master key is not in the keyring.
   */
  async store(actor: Actor, { tenantId, name, provider, value }: NewApiKey): Promise<{ key: ListedApiKey; isReplaced: boolean }> {
    const normalized = normalizeValue(value);
    const plaintext = Buffer.from(normalized, 'utf8');
    try {
      const { row, isReplaced } = await this.#put(actor, { table: apiKeysTable, tenantId, name, provider }, plaintext);
      return { key: { ...row, maskedValue: maskValue(normalized) }, isReplaced };
    } finally {
      plaintext.fill(0);
    }
  }

  async list(tenantId: string | null, provider: string | null, page: PageRequest): Promise<Page<ListedApiKey>> {
    await this.#turns(() => nextTurn());
    const { items, next } = await this.#context.store.list(tenantId, provider, page);
    return { items: items.map((row) => this.#masked(row)), next };
  }

  /** Throws NotFoundError, also if the id belongs to another tenant. */
  async get(tenantId: string | null, id: string): Promise<ListedApiKey> {
    const row = await this.#context.store.findById(tenantId, id);
    if (row === null) throw notFound();
    return this.#masked(row);
  }

  /** Throws NotFoundError, also if the id belongs to another tenant. */
  async delete(actor: Actor, tenantId: string | null, id: string): Promise<void> {
    const row = await this.#context.store.findById(tenantId, id);
    if (row === null) throw notFound();
    const event = { act: 'key.delete', outcome: 'done', row: { tenantId, name: row.name, id } };
    const isDeleted = await this.#context.journal.recorded(actor, event, (record) =>
      this.#context.store.delete(tenantId, id, record),
    );
    if (!isDeleted) throw notFound();
  }

  /**
   * Throws NotFoundError, DecryptFailedError, or ConfigurationError if only the key is missing; and StorageUnavailableError if
   * the use could not be recorded.
   */
  async decrypt(actor: Actor, tenantId: string | null, name: string): Promise<DecryptedApiKey> {
    const row = await this.#context.store.findByName(tenantId, name);
    const opened = row === null ? notFound() : await this.#openOrRefuse(row);
    await this.#context.log.record(actor, [useOf({ tenantId, name, id: row?.id ?? null }, opened)]);
    if (opened instanceof VaultError) throw opened;
    this.#noteUse(opened);
    return opened.key;
  }

  /**
   * Every name of a tenant, each with the value of its newest row or the error that kept it from opening. Throws
   * StorageUnavailableError.
   */
  async decryptAll(actor: Actor, tenantId: string | null, page: OpeningRequest): Promise<Page<DecryptedEntry>> {
    await this.#turns(() => nextTurn());
    const { items: rows, next } = await this.#context.store.listNewest(tenantId, page);
    await page.beforeOpening(rows.length);
    const uses: AuditEvent[] = [];
    const items: DecryptedEntry[] = [];
    const used: OpenedApiKey[] = [];
    for (const row of rows) {
      const opened = await this.#openOrRefuse(row);
      uses.push(useOf(row, opened));
      const { id, name, provider } = row;
      if (!(opened instanceof VaultError)) used.push(opened);
      items.push(opened instanceof VaultError ? { id, name, provider, error: opened } : opened.key);
    }
    await this.#context.log.record(actor, uses);
    for (const opened of used) this.#noteUse(opened);
    return { items, next };
  }

  async tenants(limit: number, after: Pick<TenantCount, 'position'> | null): Promise<TenantCount[]> {
    return this.#context.store.tenants(limit, after);
  }

  /** Whether a store would find its master key. */
  async isConfigured(): Promise<boolean> {
    const keyId = await this.#context.activeKey.id();
    return keyId !== null && this.#context.keyring.get(keyId) !== undefined;
  }

  /**
   * Between sealing and writing, a rotation may switch the active key, or another store may write first: the write is then
   * refused, and retried with a new seal.
   */
  async #put(actor: Actor, binding: RowBinding, plaintext: Buffer): Promise<StoredApiKey> {
    const { tenantId, name, provider } = binding;
    let reason: StaleReason = 'active_key';
    for (let attempt = 1; attempt <= maxStoreAttempts; attempt += 1) {
      const [key, existing] = await Promise.all([
        this.#context.activeKey.sealingKey(),
        this.#context.store.findByName(tenantId, name),
      ]);
      const sealed = { tenantId, name, provider, keyId: key.id, ...sealRow(key, binding, plaintext) };
      this.#context.seals.note(key.id);
      const stored = await this.#tryPut(actor, sealed, existing);
      if (typeof stored !== 'string') return stored;
      reason = stored;
      this.#context.activeKey.forget();
    }
    throw new StorageUnavailableError(staleMessages[reason]);
  }

  /** Returns the reason if the write must be prepared again. */
  async #tryPut(actor: Actor, sealed: SealedApiKey, existing: ApiKeyRow | null): Promise<StoredApiKey | StaleReason> {
    const { tenantId, name, provider, keyId } = sealed;
    const id = existing?.id ?? randomUUID();
    const event = { act: 'key.store', outcome: 'done', row: { tenantId, name, id }, details: { provider, key_id: keyId } };
    const now = Math.floor(Date.now() / 1000);
    try {
      const outcome = await this.#context.journal.recorded(actor, event, (record) =>
        this.#context.store.put(sealed, id, now, record),
      );
      return outcome === null ? 'active_key' : toStored(sealed, id, now, outcome === 'replaced' ? existing : null);
    } catch (error) {
      if (error instanceof GuardFailedError && error.guard === rowIdGuard) return 'row';
      throw error;
    }
  }

  /** An error of the row itself is returned, not thrown. */
  async #openOrRefuse(row: ApiKeyRow): Promise<OpenedApiKey | DecryptFailedError | ConfigurationError> {
    const { id, tenantId, name, provider, lastUsedAt } = row;
    const opened = this.#open(row);
    if (opened === null) return this.#whyUnopened(row);
    return { key: { id, tenantId, name, provider, value: takeText(opened.plaintext) }, keyId: opened.key.id, lastUsedAt };
  }

  /** Call after the use is recorded: a use that was refused because it could not be recorded did not happen. */
  #noteUse({ key, keyId, lastUsedAt }: OpenedApiKey): void {
    this.#context.observer.decrypted(keyId, 'opened');
    this.#context.uses.note(key.id, lastUsedAt);
  }

  /** Names a missing key; every other cause is the same error. */
  async #whyUnopened(row: ApiKeyRow): Promise<DecryptFailedError | ConfigurationError> {
    const why = this.#isRefused(row) ? new DecryptFailedError() : await this.#context.activeKey.whyUnopened(row.keyIdHint);
    this.#context.observer.decrypted(row.keyIdHint, why instanceof ConfigurationError ? 'key_missing' : 'failed');
    return why;
  }

  #open(row: ApiKeyRow): OpenedRow | null {
    return this.#isRefused(row) ? null : this.#context.keyring.openRow(bindingOf(row), row, row.keyIdHint);
  }

  #isRefused(row: ApiKeyRow): boolean {
    return this.#context.requireFormat2 && rowFormatOf(row) === 1;
  }

  #masked(row: ApiKeyRow): ListedApiKey {
    const opened = this.#open(row);
    if (opened === null) return { ...row, maskedValue: unreadableMask, keyId: row.keyIdHint };
    return { ...row, maskedValue: maskValue(takeText(opened.plaintext)), keyId: opened.key.id };
  }
}

/** The row as it now is in the table: the write can have replaced only `replaced`, or have inserted a new row. */
function toStored(sealed: SealedApiKey, id: string, now: number, replaced: ApiKeyRow | null): StoredApiKey {
  const { tenantId, name, provider, keyId } = sealed;
  const createdAt = replaced?.createdAt ?? now;
  const updatedAt = Math.max(now, replaced?.updatedAt ?? now);
  const row = { id, tenantId, name, provider, keyId, createdAt, updatedAt, lastUsedAt: replaced?.lastUsedAt ?? null };
  return { row, isReplaced: replaced !== null };
}

function useOf(row: { tenantId: string | null; name: string; id: string | null }, opened: object): AuditEvent {
  const { tenantId, name, id } = row;
  return { act: 'key.decrypt', outcome: opened instanceof VaultError ? opened.code : 'done', row: { tenantId, name, id } };
}

function bindingOf({ tenantId, name, provider }: ApiKeyRow): RowBinding {
  return { table: apiKeysTable, tenantId, name, provider };
}

function takeText(plaintext: Buffer): string {
  const value = plaintext.toString('utf8');
  plaintext.fill(0);
  return value;
}

function notFound(): NotFoundError {
  return new NotFoundError('There is no such key for this tenant.');
}
