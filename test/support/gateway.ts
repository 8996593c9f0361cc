/** Today's gateway, reimplemented from its behaviour: its table, how it seals and reads, and its in-place update. */

import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { type Client, createClient } from '@libsql/client';

export interface GatewayRow {
  readonly id: string;
  readonly name: string;
  readonly provider: string;
  readonly tenant_id: string | null;
  readonly encrypted_value: string;
  readonly iv: string;
  readonly auth_tag: string;
  readonly created_at: number;
  readonly updated_at: number;
}

export const gatewayTableSql = `CREATE TABLE api_keys (
  id text PRIMARY KEY NOT NULL, name text NOT NULL, provider text NOT NULL, encrypted_value text NOT NULL,
  iv text NOT NULL, auth_tag text NOT NULL, tenant_id text, created_at integer NOT NULL, updated_at integer NOT NULL)`;

export const connectorTableSql = `CREATE TABLE context_connector_credentials (
  id text PRIMARY KEY NOT NULL, tenant_id text, name text NOT NULL, type text NOT NULL, encrypted_value text NOT NULL,
  iv text NOT NULL, auth_tag text NOT NULL, last_used_at integer, created_at integer NOT NULL, updated_at integer NOT NULL)`;

function keyBytes(masterKey: string): Buffer {
  const isHex = masterKey.length === 64 && /^[0-9a-f]+$/i.test(masterKey);
  return isHex ? Buffer.from(masterKey, 'hex') : createHash('sha256').update(masterKey).digest();
}

export function gatewaySeal(masterKey: string, plaintext: string): Pick<GatewayRow, 'encrypted_value' | 'iv' | 'auth_tag'> {
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', keyBytes(masterKey), iv);
  const encrypted = cipher.update(plaintext, 'utf8', 'hex') + cipher.final('hex');
  return { encrypted_value: encrypted, iv: iv.toString('hex'), auth_tag: cipher.getAuthTag().toString('hex') };
}

/** Throws if the row does not open. */
export function gatewayOpen(masterKey: string, row: Pick<GatewayRow, 'encrypted_value' | 'iv' | 'auth_tag'>): string {
  const decipher = createDecipheriv('aes-256-gcm', keyBytes(masterKey), Buffer.from(row.iv, 'hex'));
  decipher.setAuthTag(Buffer.from(row.auth_tag, 'hex'));
  return decipher.update(row.encrypted_value, 'hex', 'utf8') + decipher.final('utf8');
}

export function insertStatement(row: GatewayRow, table: string): { sql: string; args: (string | number | null)[] } {
  const { id, name, provider, tenant_id, encrypted_value, iv, auth_tag, created_at, updated_at } = row;
  const kind = table === 'api_keys' ? 'provider' : 'type';
  return {
    sql: `INSERT INTO ${table} (id, name, ${kind}, tenant_id, encrypted_value, iv, auth_tag, created_at, updated_at)
          VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    args: [id, name, provider, tenant_id, encrypted_value, iv, auth_tag, created_at, updated_at],
  };
}

export interface NewGatewayRow {
  readonly id: string;
  readonly name?: string;
  readonly provider?: string;
  readonly tenantId?: string | null;
  readonly value?: string;
  readonly updatedAt?: number;
}

/** A separate connection to a database file, like another program's. */
export class GatewayDatabase {
  readonly client: Client;

  constructor(url: string) {
    this.client = createClient({ url, timeout: 2_000 });
  }

  async createTable(): Promise<void> {
    await this.client.batch([gatewayTableSql], 'write');
  }

  async insert(masterKey: string, row: NewGatewayRow, table = 'api_keys'): Promise<void> {
    await this.insertAll(masterKey, [row], table);
  }

  async insertAll(masterKey: string, rows: readonly NewGatewayRow[], table = 'api_keys'): Promise<void> {
    const sealed = rows.map(({ id, name = id, provider = 'openai', tenantId = null, value, updatedAt = 1_745_000_000 }) => ({
      ...{ id, name, provider, tenant_id: tenantId, created_at: 1_745_000_000, updated_at: updatedAt },
      ...gatewaySeal(masterKey, value ?? `sample-value-of-${id}`),
    }));
    await this.insertSealed(sealed, table);
  }

  /** Inserts this many rows at once: `row-<index>`, with the value `sample-value-of-row-<index>`, padded to `characters`. */
  async fill(masterKey: string, rows: number, characters = 0): Promise<void> {
    const values = Array.from({ length: rows }, (_, index) => {
      const { encrypted_value, iv, auth_tag } = gatewaySeal(masterKey, `sample-value-of-row-${index}`.padEnd(characters, '.'));
      return [`row-${index}`, encrypted_value, iv, auth_tag];
    });
    const sql = `INSERT INTO api_keys (id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
      SELECT value->>0, value->>0, 'openai', value->>1, value->>2, value->>3, 1, 1 FROM json_each(?)`;
    await this.client.batch([{ sql, args: [JSON.stringify(values)] }], 'write');
  }

  /** Restores the table to these rows, as returned by {@link rows}. */
  async refill(rows: readonly Record<string, unknown>[]): Promise<void> {
    const columns = Object.keys(rows[0] ?? {});
    const values = columns.map((_, index) => `value->>${index}`);
    const sql = `INSERT INTO api_keys (${columns.join(', ')}) SELECT ${values.join(', ')} FROM json_each(?)`;
    const json = JSON.stringify(rows.map((row) => columns.map((column) => row[column])));
    await this.client.batch(['DELETE FROM api_keys', { sql, args: [json] }], 'write');
  }

  async insertSealed(rows: readonly GatewayRow[], table = 'api_keys'): Promise<void> {
    const statements = rows.map((row) => insertStatement(row, table));
    await this.client.batch(statements, 'write');
  }

  /** Replaces a value as the gateway does, without the vault's columns. */
  async update(masterKey: string, id: string, value: string, table = 'api_keys'): Promise<void> {
    const { encrypted_value, iv, auth_tag } = gatewaySeal(masterKey, value);
    await this.client.batch(
      [
        {
          sql: `UPDATE ${table} SET encrypted_value = ?, iv = ?, auth_tag = ?, updated_at = unixepoch() WHERE id = ?`,
          args: [encrypted_value, iv, auth_tag, id],
        },
      ],
      'write',
    );
  }

  async run(sql: string, args: (string | number | null)[] = []): Promise<void> {
    await this.client.batch([{ sql, args }], 'write');
  }

  async rows(table = 'api_keys'): Promise<Record<string, unknown>[]> {
    // The client names columns by the schema of its previous statement; this one lets it notice a migration.
    await this.client.execute(`SELECT count(*) FROM ${table}`);
    const { rows } = await this.client.execute(`SELECT * FROM ${table} ORDER BY rowid`);
    return rows.map((row) => ({ ...row }));
  }

  async open(masterKey: string, id: string, table = 'api_keys'): Promise<string> {
    const { rows } = await this.client.execute({ sql: `SELECT * FROM ${table} WHERE id = ?`, args: [id] });
    return gatewayOpen(masterKey, rows[0] as unknown as GatewayRow);
  }

  close(): void {
    this.client.close();
  }
}
