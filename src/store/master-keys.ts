/** What the database knows about master keys: which one seals, and which ones ever did. It holds key ids only, never a key. */

import { integer, integerOrNull, isTrue, text } from './connection.ts';
import type { Database } from './database.ts';
import { guard, type Statement } from './guards.ts';

export interface MasterKeyRecord {
  readonly keyId: string;
  readonly isPassphrase: boolean;
  readonly isActive: boolean;
  /** All times of the store are in Unix seconds. */
  readonly firstSeenAt: number;
  /** When it first became the active key, or null if it never did. */
  readonly activatedAt: number | null;
  readonly statelessLastUsedAt: number | null;
}

/** The part of a master key that the database knows. */
export interface MasterKeyName {
  readonly id: string;
  readonly isPassphrase: boolean;
}

/** The guard that fails once a key other than the expected one has become active. */
export const activeKeyGuard = 'active_key';

export class MasterKeyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Null in a database that the vault has never served. */
  async activeKeyId(): Promise<string | null> {
    const [row] = await this.#database.read('SELECT key_id FROM vault_active_key');
    return row === undefined ? null : text(row, 'key_id');
  }

  async all(): Promise<MasterKeyRecord[]> {
    const rows =
      await this.#database.read(`SELECT key_id, is_passphrase, key_id IN (SELECT key_id FROM vault_active_key) AS is_active,
        first_seen_at, activated_at, stateless_last_used_at
      FROM vault_master_keys ORDER BY first_seen_at, rowid`);
    return rows.map((row) => ({
      keyId: text(row, 'key_id'),
      isPassphrase: isTrue(row, 'is_passphrase'),
      isActive: isTrue(row, 'is_active'),
      firstSeenAt: integer(row, 'first_seen_at'),
      activatedAt: integerOrNull(row, 'activated_at'),
      statelessLastUsedAt: integerOrNull(row, 'stateless_last_used_at'),
    }));
  }

  /** Records the keys of this keyring; known ones stay unchanged. */
  async register(keys: readonly MasterKeyName[]): Promise<void> {
    if (keys.length > 0) await this.#database.write(keys.map(registerStatement));
  }

  /** Makes a key the active one if the database has none. */
  async adopt(key: MasterKeyName): Promise<void> {
    await this.#database.write(activeKeyStatements(key, true));
  }

  /** Records when stateless calls used these keys; an older time never replaces a newer one. */
  async noteStatelessUse(usedAt: ReadonlyMap<string, number>): Promise<void> {
    await this.#database.writeBeside(
      [...usedAt].map(([keyId, time]) => ({
        sql: 'UPDATE vault_master_keys SET stateless_last_used_at = max(coalesce(stateless_last_used_at, 0), ?) WHERE key_id = ?',
        args: [time, keyId],
      })),
    );
  }

  /**
   * How often each key has sealed, over all processes: the seals that they added, and the rows that rotations wrote under the key. Not
   * counted is what a rotation sealed and did not write, because its gate or commit failed, or the row had changed meanwhile.
   */
  async seals(): Promise<ReadonlyMap<string, number>> {
    const rows = await this.#database.read(`SELECT key_id, seals +
        (SELECT coalesce(sum(rows_rotated), 0) FROM vault_rotations WHERE to_key_id = key_id) AS seals FROM vault_master_keys`);
    return new Map(rows.map((row) => [text(row, 'key_id'), integer(row, 'seals')]));
  }

  async addSeals(seals: ReadonlyMap<string, number>): Promise<void> {
    await this.#database.write(
      [...seals].map(([keyId, count]) => ({
        sql: 'UPDATE vault_master_keys SET seals = seals + ? WHERE key_id = ?',
        args: [count, keyId],
      })),
    );
  }
}

/** Statements for a batch that make `to` the active key, and fail the batch unless `expected` or `to` is active. */
export function activateStatements(expected: string, to: MasterKeyName): Statement[] {
  return [
    guard(activeKeyGuard, 'EXISTS (SELECT 1 FROM vault_active_key WHERE key_id IN (?, ?))', [expected, to.id]),
    ...activeKeyStatements(to, false),
  ];
}

/**
 * Statements for a batch that make a key the active one, whichever is active now; with `isKept`, only if the database names none.
 */
export function activeKeyStatements(key: MasterKeyName, isKept: boolean): Statement[] {
  const onConflict = isKept ? 'DO NOTHING' : 'DO UPDATE SET key_id = excluded.key_id';
  return [
    registerStatement(key),
    { sql: `INSERT INTO vault_active_key (one, key_id) VALUES (1, ?) ON CONFLICT (one) ${onConflict}`, args: [key.id] },
    {
      sql: `UPDATE vault_master_keys SET activated_at = unixepoch()
            WHERE key_id = (SELECT key_id FROM vault_active_key) AND activated_at IS NULL`,
    },
  ];
}

/** For a batch: a key that is known already stays unchanged. */
export function registerStatement({ id, isPassphrase }: MasterKeyName): Statement {
  return {
    sql: 'INSERT OR IGNORE INTO vault_master_keys (key_id, is_passphrase, first_seen_at) VALUES (?, ?, unixepoch())',
    args: [id, isPassphrase ? 1 : 0],
  };
}
