/** Records rotations, and has the lease that lets one owner at a time run one. The database's clock times the lease. */

import { type AuditLine, auditStatement } from './audit.ts';
import { integer, isTrue, text } from './connection.ts';
import type { Database } from './database.ts';
import { guard, type Statement } from './guards.ts';
import { withColumns } from './migrations.ts';
import {
  finalStates,
  isLeaseExpired,
  leaseSeconds,
  type RotationProgress,
  type RotationRecord,
  type RotationUpdate,
  rotationColumns,
  type SkippedRow,
  toRotationRecord,
  updateStatement,
} from './rotation-record.ts';

type Choices = 'id' | 'fromKeyId' | 'toKeyId' | 'upgradeFormat' | 'skippedRows' | 'coveredTables' | 'isRerun';

export interface NewRotation extends Pick<RotationRecord, Choices> {
  /** Begun although a live replica lacked a key. */
  readonly isForced: boolean;
}

/** Held by one process for one rotation. Every takeover raises the fence, so that an earlier owner can be told apart. */
export interface Lease {
  readonly rotationId: string;
  readonly owner: string;
  readonly fence: number;
  /** Whether the rotation had come to its switch before it was taken: nobody else can switch from then on. */
  readonly isSwitched: boolean;
}

/** The guard that fails once the lease belongs to somebody else. */
const fenceGuard = 'rotation_fence';

/** The guard that fails while a rotation is unfinished. */
export const noRotationGuard = 'no_rotation';

export class RotationStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async find(id: string): Promise<RotationRecord | null> {
    return this.#one('WHERE id = ?', [id]);
  }

  /** The one that was begun and has not ended, or null. */
  async findUnfinished(): Promise<RotationRecord | null> {
    return this.#one(`WHERE state NOT IN (${finalStates}) ORDER BY started_at DESC, rowid DESC`);
  }

  /** Whether one was begun and has not ended, by the columns that every version has. */
  async hasUnfinished(): Promise<boolean> {
    const rows = await this.#database.read(`SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}) LIMIT 1`);
    return rows.length > 0;
  }

  async findLastFinished(): Promise<RotationRecord | null> {
    return this.#one(`WHERE state IN (${finalStates}) ORDER BY finished_at DESC, rowid DESC`);
  }

  /** The last one that made this key the active one, or null. */
  async findLastCompletedTo(keyId: string): Promise<RotationRecord | null> {
    return this.#one("WHERE state = 'completed' AND to_key_id = ? ORDER BY finished_at DESC, rowid DESC", [keyId]);
  }

  /** Every row that a completed rotation has left out, with the key that it was to be rotated from. */
  async findSkipped(): Promise<(SkippedRow & { readonly fromKeyId: string })[]> {
    const rows = await this.#database.read(`SELECT from_key_id, skipped_rows FROM vault_rotations
      WHERE state = 'completed' AND skipped_rows <> '[]'`);
    return rows.flatMap((row) => {
      const skipped = JSON.parse(text(row, 'skipped_rows')) as SkippedRow[];
      return skipped.map((each) => ({ ...each, fromKeyId: text(row, 'from_key_id') }));
    });
  }

  /** How often a rotation has been begun, or taken up. */
  async fence(): Promise<number> {
    const [row] = await this.#database.read('SELECT fence FROM vault_rotation_lease');
    return row === undefined ? 0 : integer(row, 'fence');
  }

  /**
   * Takes the lease and records the rotation, also in the audit, or takes up the unfinished one of that id again, in one step. Null where
   * another owner holds the lease or another rotation is unfinished.
   */
  async begin(rotation: NewRotation, owner: string, record: AuditLine): Promise<Lease | null> {
    const { id, fromKeyId, toKeyId, upgradeFormat, isForced, isRerun } = rotation;
    const lists = [JSON.stringify(rotation.skippedRows), JSON.stringify(rotation.coveredTables)];
    const itselfFinished = `SELECT 1 FROM vault_rotations WHERE id = ? AND state IN (${finalStates})`;
    const otherUnfinished = `SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}) AND id <> ?`;
    const [, lease] = await this.#database.write([
      // It may have been lost with a copy of some of the tables.
      { sql: 'INSERT OR IGNORE INTO vault_rotation_lease (one, fence, expires_at) VALUES (1, 0, 0)' },
      {
        sql: `UPDATE vault_rotation_lease SET rotation_id = ?, owner = ?, fence = fence + 1, expires_at = unixepoch() + ${leaseSeconds}
              WHERE ${isLeaseExpired} AND NOT EXISTS (${otherUnfinished}) AND NOT EXISTS (${itselfFinished})`,
        args: [id, owner, id, id],
      },
      {
        sql: `INSERT INTO vault_rotations
                (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, covered_tables, rerun, started_at)
              SELECT ?, 'gating', ?, ?, ?, ?, ?, ?, ?, unixepoch() FROM vault_rotation_lease WHERE owner = ?
              ON CONFLICT (id) DO UPDATE SET state = 'gating', error = NULL, finished_at = NULL, progress = NULL, forced = excluded.forced,
                upgrade_format = excluded.upgrade_format, skipped_rows = excluded.skipped_rows, covered_tables = excluded.covered_tables,
                rows_found_late = iif(state = 'verify_failed', 0, rows_found_late)`,
        args: [id, fromKeyId, toKeyId, Number(upgradeFormat), Number(isForced), ...lists, Number(isRerun), owner],
      },
      auditStatement(record, 'EXISTS (SELECT 1 FROM vault_rotation_lease WHERE owner = ?)', [owner]),
    ]);
    if (lease !== 1) return null;
    const sql = 'SELECT fence, switched FROM vault_rotation_lease JOIN vault_rotations ON id = rotation_id WHERE owner = ?';
    const [row] = await this.#database.read(sql, [owner]);
    return row === undefined
      ? null
      : { rotationId: id, owner, fence: integer(row, 'fence'), isSwitched: isTrue(row, 'switched') };
  }

  /** Keeps the lease for another {@link leaseSeconds}, and reports how far its rotation is. False once it belongs to somebody else. */
  async renew({ owner, fence, rotationId }: Lease, progress: RotationProgress): Promise<boolean> {
    const [renewed] = await this.#database.write([
      {
        sql: `UPDATE vault_rotation_lease SET expires_at = unixepoch() + ${leaseSeconds} WHERE owner = ? AND fence = ?`,
        args: [owner, fence],
      },
      {
        sql: 'UPDATE vault_rotations SET progress = ? WHERE id = ? AND EXISTS (SELECT 1 FROM vault_rotation_lease WHERE owner = ? AND fence = ?)',
        args: [JSON.stringify(progress), rotationId, owner, fence],
      },
    ]);
    return renewed === 1;
  }

  /** Writes the rotation's statements together with its new state, and answers how many rows each changed. All of it fails where the lease has been lost. */
  async advance(lease: Lease, update: RotationUpdate, statements: readonly Statement[] = []): Promise<number[]> {
    const batch = [fenceStatement(lease), ...statements, updateStatement(lease.rotationId, update)];
    const written = await withColumns(this.#database, () => this.#database.write(batch));
    return written.slice(1, -1);
  }

  /** Records the end of the rotation, or of this attempt at it, and gives the lease back. */
  async finish(lease: Lease, update: RotationUpdate, record: AuditLine): Promise<void> {
    await this.#database.write([
      fenceStatement(lease),
      updateStatement(lease.rotationId, update),
      { sql: 'UPDATE vault_rotations SET finished_at = unixepoch(), progress = NULL WHERE id = ?', args: [lease.rotationId] },
      {
        sql: 'UPDATE vault_rotation_lease SET rotation_id = NULL, owner = NULL, expires_at = 0 WHERE owner = ?',
        args: [lease.owner],
      },
      auditStatement(record),
    ]);
  }

  /**
   * Ends a rotation that has not switched the active key, and takes the lease from whoever holds it for that. False, and
   * nothing changed, where it has switched or ended.
   */
  async cancel(id: string, record: AuditLine): Promise<boolean> {
    const cancellable = "id = ? AND state IN ('gating', 'interrupted') AND switched = 0";
    const [, cancelled] = await this.#database.write([
      auditStatement(record, `EXISTS (SELECT 1 FROM vault_rotations WHERE ${cancellable})`, [id]),
      {
        sql: `UPDATE vault_rotations SET state = 'cancelled', error = NULL, finished_at = unixepoch(), progress = NULL WHERE ${cancellable}`,
        args: [id],
      },
      {
        sql: `UPDATE vault_rotation_lease SET rotation_id = NULL, owner = NULL, expires_at = 0, fence = fence + 1
              WHERE rotation_id = ? AND EXISTS (SELECT 1 FROM vault_rotations WHERE id = rotation_id AND state = 'cancelled')`,
        args: [id],
      },
    ]);
    return cancelled === 1;
  }

  async #one(clause: string, args: string[] = []): Promise<RotationRecord | null> {
    const [row] = await this.#database.read(`SELECT ${rotationColumns} FROM vault_rotations ${clause} LIMIT 1`, args);
    return row === undefined ? null : toRotationRecord(row);
  }
}

/** Fails the batch while any rotation is unfinished, and where one has been begun since {@link RotationStore.fence} was read. */
export function noRotationStatement(fence: number): Statement {
  const noneUnfinished = `NOT EXISTS (SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}))`;
  return guard(noRotationGuard, `${noneUnfinished} AND coalesce((SELECT fence FROM vault_rotation_lease), 0) = ?`, [fence]);
}

function fenceStatement({ owner, fence }: Lease): Statement {
  return guard(fenceGuard, 'EXISTS (SELECT 1 FROM vault_rotation_lease WHERE owner = ? AND fence = ?)', [owner, fence]);
}
