/**
 * The statements on `api_keys`. A write takes effect only while the sealing key is active: a writer with an outdated key writes
 * nothing.
 */

import { AnswerTooLargeError } from '../errors.ts';
import { type AuditLine, auditStatement } from './audit.ts';
import { Batcher } from './batcher.ts';
import { type DecodedText, decodeTexts, encodeTexts } from './cells.ts';
import { integer, type Row, text, textOrNull } from './connection.ts';
import type { Database } from './database.ts';
import { isConstraint } from './failures.ts';
import { GuardFailedError, guard, type Statement } from './guards.ts';
import { withColumns } from './migrations.ts';

export interface ApiKeyRow {
  readonly id: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
  readonly encryptedValue: string;
  readonly iv: string;
  readonly authTag: string;
  /** The id of the key that sealed the value; null where unknown, or where another program has replaced the ciphertext since. */
  readonly keyIdHint: string | null;
  /** All times in this file are in Unix seconds. */
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly lastUsedAt: number | null;
}

export interface SealedApiKey extends Pick<ApiKeyRow, 'tenantId' | 'name' | 'provider' | 'encryptedValue' | 'iv' | 'authTag'> {
  /** The key that sealed the value; the write takes effect only while this key is active. */
  readonly keyId: string;
}

export interface TenantCount {
  /** Empty where the stored tenant id is not valid UTF-8. */
  readonly tenantId: string | null;
  readonly keys: number;
  /** Sort position of the tenant, to pass as `after`; null for the null tenant. */
  readonly position: string | null;
}

export interface PageRequest {
  readonly limit: number;
  /** `next` of the previous page, or null for the first page. */
  readonly after: string | null;
}

export interface Page<Item> {
  readonly items: readonly Item[];
  /** Where the next page begins, or null after the last page. */
  readonly next: string | null;
}

const textColumns = ['id', 'tenant_id', 'name', 'provider', 'encrypted_value', 'iv', 'auth_tag'];
const keyIdHint = '(CASE WHEN key_id_tag = auth_tag THEN key_id END)';
const times = ['created_at', 'updated_at', 'last_used_at'];
const columns = `${encodeTexts([...textColumns, keyIdHint], times)} AS cells`;
const bytesOfRow = textColumns.map((name) => `coalesce(octet_length(${name}), 0)`).join(' + ');
/** A page ends with the row that reaches this size: opening many large rows at once would block every other call. */
const pageBytes = 2_000_000;

/** Where several rows share a tenant and name, the one that counts. */
const newestOf = (tenantId: string, name: string): string =>
  `(SELECT rowid FROM api_keys WHERE tenant_id IS ${tenantId} AND name = ${name} ORDER BY updated_at DESC, created_at DESC, rowid DESC LIMIT 1)`;
/** A 16-byte authentication tag identifies one sealing. */
const rowWithTag = 'SELECT 1 FROM api_keys WHERE tenant_id IS ? AND name = ? AND auth_tag = ?';
/** The guard that fails where the name stands for a row other than the one in the audit record. */
export const rowIdGuard = 'row_id';
/** Reads `id` as {@link ApiKeyRow.id}: empty where another program has stored something other than text. */
const readId = "iif(typeof(id) = 'text', id, '')";
const isActive = 'EXISTS (SELECT 1 FROM vault_active_key WHERE key_id = ?)';

/** Sort position of a row by its id, whether that is text or bytes; and the condition that selects the rows after a position. */
const position = "iif(typeof(id) = 'blob', 'blob:', 'text:') || hex(id)";
const isAfter = `(?2 IS NULL OR id > iif(?2 LIKE 'blob:%', unhex(substr(?2, 6)), CAST(unhex(substr(?2, 6)) AS text)))`;

/** 32 answers with the largest values, 64 KiB each in hex, are four megabytes: a libSQL server sends at most ten, and slowly. */
const maxLookups = 32;
/** Each value is sent twice (UPDATE and INSERT), so half as many fit. */
const maxWrites = 16;

type PageArguments = readonly [condition: string, tenantId: string | null, page: PageRequest, args?: readonly (string | null)[]];
type NameLookup = readonly [tenantId: string | null, name: string];

export class ApiKeyStore {
  readonly #database: Database;
  readonly #lookups: Batcher<NameLookup, ApiKeyRow | null>;
  /** Concurrent writes are committed together in one batch. */
  readonly #writes: Batcher<readonly Statement[], readonly number[]>;

  constructor(database: Database) {
    this.#database = database;
    this.#lookups = new Batcher({
      process: (lookups) => this.#findByNames(lookups),
      maxItems: maxLookups,
      maxConcurrency: 8,
      isDivisible: (error) => error instanceof AnswerTooLargeError,
    });
    this.#writes = new Batcher({
      process: (writes) => this.#writeAll(writes),
      maxItems: maxWrites,
      maxConcurrency: 2,
      // After these errors alone it is certain that nothing was written.
      isDivisible: (error) => error instanceof GuardFailedError || isConstraint(error),
    });
  }

  /** The row that the name stands for: the newest, where several share the name. */
  findByName(tenantId: string | null, name: string): Promise<ApiKeyRow | null> {
    return this.#lookups.submit([tenantId, name]);
  }

  async findById(tenantId: string | null, id: string): Promise<ApiKeyRow | null> {
    const [row] = await this.#read(`SELECT ${columns} FROM api_keys WHERE id = ? AND tenant_id IS ?`, [id, tenantId]);
    return row === undefined ? null : toApiKeyRow(row);
  }

  /** All rows of a tenant in order of id, including several with the same name. */
  async list(tenantId: string | null, provider: string | null, page: PageRequest): Promise<Page<ApiKeyRow>> {
    return this.#page('(?5 IS NULL OR provider = ?5)', tenantId, page, [provider]);
  }

  /** As {@link list}, but only the newest row of each name. */
  async listNewest(tenantId: string | null, page: PageRequest): Promise<Page<ApiKeyRow>> {
    return this.#page(`rowid = ${newestOf('outer_row.tenant_id', 'outer_row.name')}`, tenantId, page);
  }

  /**
   * A page of large rows holds fewer than asked for, but at least one, and fewer still where the server cannot send that much at
   * once.
   */
  async #page(...given: PageArguments): Promise<Page<ApiKeyRow>> {
    for (let bytes = pageBytes; ; bytes = Math.floor(bytes / 4)) {
      try {
        return await this.#pageOf(bytes, ...given);
      } catch (error) {
        if (!(error instanceof AnswerTooLargeError) || bytes === 0) throw error;
      }
    }
  }

  async #pageOf(bytes: number, ...[condition, tenantId, { after, limit }, args = []]: PageArguments): Promise<Page<ApiKeyRow>> {
    const sql = `WITH asked AS MATERIALIZED (
        SELECT rowid AS row_id, id, ${bytesOfRow} AS bytes FROM api_keys AS outer_row
        WHERE tenant_id IS ?1 AND ${isAfter} AND ${condition} ORDER BY id LIMIT ?3 + 1)
      SELECT ${columns}, ${position} AS position, (SELECT count(*) FROM asked) AS asked
      FROM (SELECT row_id, sum(bytes) OVER (ORDER BY id, row_id ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before FROM asked) CROSS JOIN api_keys ON api_keys.rowid = row_id
      WHERE bytes_before <= ?4 ORDER BY id LIMIT ?3`;
    const rows = await this.#read(sql, [tenantId, after, limit, bytes, ...args]);
    const last = rows.at(-1);
    const next = last === undefined || integer(last, 'asked') === rows.length ? null : text(last, 'position');
    return { items: rows.map(toApiKeyRow), next };
  }

  /** Tenants with their row counts, the null tenant first. `after`: the last tenant of the previous page. */
  async tenants(limit: number, after: Pick<TenantCount, 'position'> | null): Promise<TenantCount[]> {
    const sql = `SELECT ${encodeTexts(['tenant_id'])} AS cells, iif(tenant_id IS NULL, NULL, hex(tenant_id)) AS position, count(*) AS keys
      FROM api_keys WHERE typeof(tenant_id) <> 'blob'
        AND (?1 = 0 OR (?2 IS NULL AND tenant_id IS NOT NULL) OR tenant_id > CAST(unhex(?2) AS text))
      GROUP BY tenant_id ORDER BY tenant_id LIMIT ?3`;
    const rows = await this.#read(sql, [after === null ? 0 : 1, after?.position ?? null, limit]);
    return rows.map((row) => {
      const [tenantId = null] = decodeTexts(row.cells).texts;
      const keys = integer(row, 'keys');
      return {
        tenantId: tenantId === null || typeof tenantId === 'string' ? tenantId : '',
        keys,
        position: textOrNull(row, 'position'),
      };
    });
  }

  /**
   * Replaces the row that the name stands for, expected to be `id`, or inserts one under that id, together with its audit record.
   * Returns null, with nothing written, if the sealing key is no longer active. Throws GuardFailedError with {@link rowIdGuard},
   * with nothing written, if the name has come to stand for another row.
   */
  async put(sealed: SealedApiKey, id: string, now: number, record: AuditLine): Promise<'replaced' | 'inserted' | null> {
    const { tenantId, name, provider, encryptedValue, iv, authTag, keyId } = sealed;
    const [replaced, inserted] = await this.#writes.submit([
      {
        sql: `UPDATE api_keys SET provider = ?, encrypted_value = ?, iv = ?, auth_tag = ?, key_id = ?, key_id_tag = ?, updated_at = max(?, updated_at)
              WHERE rowid = ${newestOf('?', '?')} AND ${isActive}`,
        args: [provider, encryptedValue, iv, authTag, keyId, authTag, now, tenantId, name, keyId],
      },
      {
        sql: `INSERT INTO api_keys
                (id, tenant_id, name, provider, encrypted_value, iv, auth_tag, key_id, key_id_tag, created_at, updated_at)
              SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
              WHERE NOT EXISTS (SELECT 1 FROM api_keys WHERE tenant_id IS ? AND name = ?) AND ${isActive}`,
        args: [id, tenantId, name, provider, encryptedValue, iv, authTag, keyId, authTag, now, now, tenantId, name, keyId],
      },
      auditStatement(record, `EXISTS (${rowWithTag} AND ${readId} = ?)`, [tenantId, name, authTag, id]),
      guard(rowIdGuard, `NOT EXISTS (${rowWithTag} AND ${readId} <> ?)`, [tenantId, name, authTag, id]),
    ]);
    if (replaced === 1) return 'replaced';
    return inserted === 1 ? 'inserted' : null;
  }

  /** Deletes the row together with its audit record. Returns false, with nothing written, if the tenant has no such row. */
  async delete(tenantId: string | null, id: string, record: AuditLine): Promise<boolean> {
    const ofTenant = 'id = ? AND tenant_id IS ?';
    const [, deleted] = await this.#writes.submit([
      auditStatement(record, `EXISTS (SELECT 1 FROM api_keys WHERE ${ofTenant})`, [id, tenantId]),
      { sql: `DELETE FROM api_keys WHERE ${ofTenant}`, args: [id, tenantId] },
    ]);
    return deleted === 1;
  }

  /** Records when rows were last used and changes nothing else in them; an older time never replaces a newer one. */
  async noteUse(usedAt: ReadonlyMap<string, number>): Promise<void> {
    const sql = `UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), used.value->>1)
      FROM json_each(?) AS used WHERE api_keys.id = used.value->>0`;
    const args = [JSON.stringify([...usedAt])];
    await withColumns(this.#database, () => this.#database.writeBeside([{ sql, args }]));
  }

  async #findByNames(lookups: readonly NameLookup[]): Promise<(ApiKeyRow | null)[]> {
    const sql = `SELECT place, ${columns} FROM (SELECT key AS place, value AS lookup FROM json_each(?)) CROSS JOIN api_keys
      ON api_keys.rowid = ${newestOf('lookup->>0', 'lookup->>1')}`;
    const found: (ApiKeyRow | null)[] = lookups.map(() => null);
    const rows = await withColumns(this.#database, () => this.#database.lookUp(sql, [JSON.stringify(lookups)]));
    for (const row of rows) found[integer(row, 'place')] = toApiKeyRow(row);
    return found;
  }

  async #read(sql: string, args: (string | number | null)[]): Promise<readonly Row[]> {
    return withColumns(this.#database, () => this.#database.read(sql, args));
  }

  async #writeAll(writes: readonly (readonly Statement[])[]): Promise<(readonly number[])[]> {
    const changed = [...(await withColumns(this.#database, () => this.#database.write(writes.flat())))];
    return writes.map(({ length }) => changed.splice(0, length));
  }
}

/**
 * Bytes that another program has stored in place of text read as empty: the row does not open, and does not fail a read of many.
 */
function toApiKeyRow(row: Row): ApiKeyRow {
  const { texts, integers } = decodeTexts(row.cells, times.length);
  const [id, tenantId = null, name, provider, encryptedValue, iv, authTag, keyIdHint = null] = texts.map(asText);
  const [createdAt, updatedAt, lastUsedAt = null] = integers;
  return {
    id: id ?? '',
    tenantId,
    name: name ?? '',
    provider: provider ?? '',
    encryptedValue: encryptedValue ?? '',
    iv: iv ?? '',
    authTag: authTag ?? '',
    keyIdHint,
    createdAt: createdAt ?? 0,
    updatedAt: updatedAt ?? 0,
    lastUsedAt,
  };
}

function asText(text: DecodedText): string | null {
  if (text === 0) return '';
  return typeof text === 'string' ? text : (text?.toString('utf8') ?? null);
}
