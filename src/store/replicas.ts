/** Which service processes are alive, and which master keys each holds. The database's clock decides who is alive. */

import { text } from './connection.ts';
import type { Database } from './database.ts';
import { guard, type Statement } from './guards.ts';

/** Seconds after its last heartbeat at which a replica counts as gone. */
const liveSeconds = 15;
/**
 * A heartbeat in the future counts as gone too: the clock has been set back since, and a live replica beats again within seconds.
 */
const isLive = `seen_at BETWEEN unixepoch() - ${liveSeconds - 1} AND unixepoch() + ${liveSeconds}`;
const forgottenSeconds = 3_600;

export interface Replica {
  readonly id: string;
  readonly host: string;
  readonly keyIds: readonly string[];
}

/** The guard that fails while a live replica lacks a key. */
export const replicaKeysGuard = 'replica_keys';

export class ReplicaStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async live(): Promise<Replica[]> {
    const sql = `SELECT id, host, key_ids FROM vault_replicas WHERE ${isLive} ORDER BY host, id`;
    const rows = await this.#database.read(sql);
    return rows.map((row) => ({
      id: text(row, 'id'),
      host: text(row, 'host'),
      keyIds: JSON.parse(text(row, 'key_ids')) as string[],
    }));
  }

  /**
   * Records a heartbeat, and deletes what is long past: replicas that vanished without signing off, and the marks of settled
   * writes.
   */
  async beat({ id, host, keyIds }: Replica): Promise<void> {
    await this.#database.writeBeside([
      {
        sql: `INSERT INTO vault_replicas (id, host, key_ids, seen_at) VALUES (?, ?, ?, unixepoch())
              ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, key_ids = excluded.key_ids`,
        args: [id, host, JSON.stringify(keyIds)],
      },
      { sql: `DELETE FROM vault_writes WHERE written_at < unixepoch() - ${forgottenSeconds}` },
      { sql: `DELETE FROM vault_replicas WHERE seen_at < unixepoch() - ${forgottenSeconds}` },
    ]);
  }

  async remove(id: string): Promise<void> {
    await this.#database.write([{ sql: 'DELETE FROM vault_replicas WHERE id = ?', args: [id] }]);
  }
}

/** A statement that fails the batch unless every live replica holds all of these keys. */
export function replicaKeysStatement(keyIds: readonly string[]): Statement {
  const holdsAll = keyIds.map(() => 'instr(key_ids, ?) > 0').join(' AND ');
  const condition = `NOT EXISTS (SELECT 1 FROM vault_replicas WHERE ${isLive} AND NOT (${holdsAll}))`;
  return guard(replicaKeysGuard, condition, [...keyIds]);
}
