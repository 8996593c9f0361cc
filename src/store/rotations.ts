/** Records rotations, and holds the lease that lets only one owner run one at a time. The database's clock times the lease. */

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

/** Held by one process for one rotation. Every takeover raises the fencing token `fence`, which invalidates earlier owners. */
export interface Lease {
  readonly rotationId: string;
  readonly owner: string;
  readonly fence: number;
  /** Whether the rotation had reached its switch before the lease was taken; after that nobody else can switch the key. */
  readonly isSwitched: boolean;
}

/** The guard that fails once the lease belongs to another owner. */
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

  /** The rotation that was begun and has not ended, or null. */
  async findUnfinished(): Promise<RotationRecord | null> {
    return this.#one(`WHERE state NOT IN (${finalStates}) ORDER BY started_at DESC, rowid DESC`);
  }

  /** Whether a rotation was begun and has not ended; reads only columns that exist in every schema version. */
  async hasUnfinished(): Promise<boolean> {
    const rows = await this.#database.read(`SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}) LIMIT 1`);
    return rows.length > 0;
  }

  /** By order, not by time: rotations end in the order in which they began, and the clock may have been set back since. */
  async findLastFinished(): Promise<RotationRecord | null> {
    return this.#one(`WHERE state IN (${finalStates}) ORDER BY rowid DESC`);
  }

  /** The last rotation that made this key the active one, or null. */
  async findLastCompletedTo(keyId: string): Promise<RotationRecord | null> {
    return this.#one("WHERE state = 'completed' AND to_key_id = ? ORDER BY rowid DESC", [keyId]);
  }

  /** Every row left out by a completed rotation, with the key that it was to be rotated from. */
  async findSkipped(): Promise<(SkippedRow & { readonly fromKeyId: string })[]> {
    const rows = await this.#database.read(`SELECT from_key_id, skipped_rows FROM vault_rotations
      WHERE state = 'completed' AND skipped_rows <> '[]'`);
    return rows.flatMap((row) => {
      const skipped = JSON.parse(text(row, 'skipped_rows')) as SkippedRow[];
      return skipped.map((each) => ({ ...each, fromKeyId: text(row, 'from_key_id') }));
    });
  }

  /** The current fencing token: how often a rotation has been begun or resumed, or cancelled while leased. */
  async fence(): Promise<number> {
    const [row] = await this.#database.read('SELECT fence FROM vault_rotation_lease');
    return row === undefined ? 0 : integer(row, 'fence');
  }

  /**
   * In one atomic step, takes the lease and records the rotation, with its audit record, or resumes the unfinished rotation of
   * that id. Null if another owner holds the lease or another rotation is unfinished.
   */
  async begin(rotation: NewRotation, owner: string, record: AuditLine): Promise<Lease | null> {
    const { id, fromKeyId, toKeyId, upgradeFormat, isForced, isRerun } = rotation;
    const lists = [JSON.stringify(rotation.skippedRows), JSON.stringify(rotation.coveredTables)];
    const itselfFinished = `SELECT 1 FROM vault_rotations WHERE id = ? AND state IN (${finalStates})`;
    const otherUnfinished = `SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}) AND id <> ?`;
    const [, lease] = await this.#database.write([
      // The row may be missing after a copy of only some of the tables.
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

  /**
   * Extends the lease to {@link leaseSeconds} from now, and reports the rotation's progress. False once another owner has the
   * lease.
   */
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

  /**
   * Writes the statements together with the rotation's new state, and returns how many rows each changed. Fails as a whole if the
   * lease is lost.
   */
  async advance(lease: Lease, update: RotationUpdate, statements: readonly Statement[] = []): Promise<number[]> {
    const batch = [fenceStatement(lease), ...statements, updateStatement(lease.rotationId, update)];
    const written = await withColumns(this.#database, () => this.#database.write(batch));
    return written.slice(1, -1);
  }

  /** Records the end of the rotation, or of this attempt at it, and releases the lease. */
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
   * Ends a rotation that has not switched the active key, taking the lease from its holder. False, with nothing changed, if it
   * has switched or ended.
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

/**
 * A statement that fails the batch while any rotation is unfinished, or if one has begun since {@link RotationStore.fence} was
 * read.
 */
export function noRotationStatement(fence: number): Statement {
  const noneUnfinished = `NOT EXISTS (SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}))`;
  return guard(noRotationGuard, `${noneUnfinished} AND coalesce((SELECT fence FROM vault_rotation_lease), 0) = ?`, [fence]);
}

function fenceStatement({ owner, fence }: Lease): Statement {
  return guard(fenceGuard, 'EXISTS (SELECT 1 FROM vault_rotation_lease WHERE owner = ? AND fence = ?)', [owner, fence]);
}
