/** The record of every rotation, and the lease that lets one owner at a time run one. The database's clock times the lease. */

import { type AuditLine, auditStatement } from './audit.ts';
import { integer, integerOrNull, type Row, text, textOrNull } from './connection.ts';
import type { Database } from './database.ts';
import { guard, type Statement } from './guards.ts';
import { withColumns } from './migrations.ts';

export const rotationStates = [
  'gating',
  'writing',
  'verifying',
  'completed',
  'cancelled',
  'failed',
  'interrupted',
  'verify_failed',
] as const;
type RotationState = (typeof rotationStates)[number];
const runningStates: readonly RotationState[] = ['gating', 'writing', 'verifying'];

/** A row that a rotation leaves out. */
export interface SkippedRow {
  readonly table: string;
  readonly id: string;
}

/** How far a rotation is, in its present phase. */
export interface RotationProgress {
  readonly rowsDone: number;
  readonly rowsTotal: number;
  readonly rowsPerSecond: number;
  /** Null before a rate is known. */
  readonly secondsLeft: number | null;
}

/** Where the tables are kept as they were before the rotation wrote anything. */
export interface RotationSnapshot {
  /** Absolute, on the machine of the process that wrote it. */
  readonly path: string;
  /** Of the whole file, in hex. */
  readonly sha256: string;
}

interface RotationCounts {
  readonly rowsScanned: number;
  readonly rowsRotated: number;
  readonly rowsAlreadyRotated: number;
  readonly rowsSkipped: number;
  readonly rowsVerified: number;
}

export interface RotationRecord extends RotationCounts {
  readonly id: string;
  readonly state: RotationState;
  readonly fromKeyId: string;
  readonly toKeyId: string;
  readonly upgradeFormat: boolean;
  readonly skippedRows: readonly SkippedRow[];
  /** The tables that it covers, as their names were spelt when it was begun or last taken up. */
  readonly coveredTables: readonly string[];
  /** Whether the new key was the active one already when it was begun, so that it is not its doing where a row needs the old one. */
  readonly isRerun: boolean;
  /** Why it did not complete, or null. */
  readonly error: string | null;
  /** Unix seconds. */
  readonly startedAt: number;
  readonly finishedAt: number | null;
  /** As its owner last reported it, at most some seconds ago; null where it does not run. */
  readonly progress: RotationProgress | null;
  /** Null where no folder for snapshots is set, or nothing was to be written. */
  readonly snapshot: RotationSnapshot | null;
  /** Whether it has come to the switch of the active key, from where on it may have written. */
  readonly isSwitched: boolean;
  /** How often a row was found under the old key after all had been written, since it last ended as `verify_failed`. */
  readonly rowsFoundLate: number;
}

/** Whether some process is at work on it. */
export function isRunning({ state }: Pick<RotationRecord, 'state'>): boolean {
  return runningStates.includes(state);
}

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
}

export interface RotationUpdate extends Partial<RotationCounts> {
  readonly state: RotationState;
  readonly error?: string | null;
  readonly snapshot?: RotationSnapshot;
  readonly isSwitched?: true;
  /** Beside those found before. */
  readonly rowsFoundLate?: number;
}

/** Seconds without renewal after which another owner may take the lease. */
export const leaseSeconds = 15;

/** So is one that runs for longer than it may: the clock has been set back since, and whoever holds it renews it in seconds. */
const isExpired = `(expires_at <= unixepoch() OR expires_at > unixepoch() + ${leaseSeconds})`;

/** The guard that fails once the lease belongs to somebody else. */
const fenceGuard = 'rotation_fence';

/** The guard that fails while a rotation is unfinished. */
export const noRotationGuard = 'no_rotation';

/** Whatever its owner wrote down last: one that has not renewed its lease has left the rotation. */
const presentState = `iif(state IN (${runningStates.map((state) => `'${state}'`).join(', ')}) AND NOT EXISTS (
    SELECT 1 FROM vault_rotation_lease WHERE rotation_id = vault_rotations.id AND NOT ${isExpired}), 'interrupted', state) AS state`;
const columns = `id, ${presentState}, from_key_id, to_key_id, upgrade_format, skipped_rows, covered_tables, rerun, rows_scanned, rows_rotated,
  rows_already_rotated, rows_skipped, rows_verified, rows_found_late, error, started_at, finished_at, progress, snapshot, switched`;
const finalStates = "'completed', 'cancelled', 'failed'";

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

  /** The id of the rotation whose lease is held and has not expired, or null. */
  async findRunningId(): Promise<string | null> {
    const [row] = await this.#database.read(`SELECT rotation_id FROM vault_rotation_lease WHERE NOT (${isExpired})`);
    return row === undefined ? null : textOrNull(row, 'rotation_id');
  }

  /**
   * Takes the lease and records the rotation, also in the audit, or takes up the unfinished one of that id again, in one step. Null where
   * another owner holds the lease or another rotation is unfinished.
   */
  async begin(rotation: NewRotation, owner: string, record: AuditLine): Promise<Lease | null> {
    const { id, fromKeyId, toKeyId } = rotation;
    const [upgradeFormat, isForced, isRerun] = [
      rotation.upgradeFormat ? 1 : 0,
      rotation.isForced ? 1 : 0,
      rotation.isRerun ? 1 : 0,
    ];
    const lists = [JSON.stringify(rotation.skippedRows), JSON.stringify(rotation.coveredTables)];
    const itselfFinished = `SELECT 1 FROM vault_rotations WHERE id = ? AND state IN (${finalStates})`;
    const otherUnfinished = `SELECT 1 FROM vault_rotations WHERE state NOT IN (${finalStates}) AND id <> ?`;
    const [lease] = await this.#database.write([
      {
        sql: `UPDATE vault_rotation_lease SET rotation_id = ?, owner = ?, fence = fence + 1, expires_at = unixepoch() + ${leaseSeconds}
              WHERE ${isExpired} AND NOT EXISTS (${otherUnfinished}) AND NOT EXISTS (${itselfFinished})`,
        args: [id, owner, id, id],
      },
      {
        sql: `INSERT INTO vault_rotations
                (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, covered_tables, rerun, started_at)
              SELECT ?, 'gating', ?, ?, ?, ?, ?, ?, ?, unixepoch() FROM vault_rotation_lease WHERE owner = ?
              ON CONFLICT (id) DO UPDATE SET state = 'gating', error = NULL, finished_at = NULL, progress = NULL, forced = excluded.forced,
                upgrade_format = excluded.upgrade_format, skipped_rows = excluded.skipped_rows, covered_tables = excluded.covered_tables,
                rows_found_late = iif(state = 'verify_failed', 0, rows_found_late)`,
        args: [id, fromKeyId, toKeyId, upgradeFormat, isForced, ...lists, isRerun, owner],
      },
      auditStatement(record, 'EXISTS (SELECT 1 FROM vault_rotation_lease WHERE owner = ?)', [owner]),
    ]);
    if (lease !== 1) return null;
    const [row] = await this.#database.read('SELECT fence FROM vault_rotation_lease WHERE owner = ?', [owner]);
    return row === undefined ? null : { rotationId: id, owner, fence: integer(row, 'fence') };
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
        sql: `UPDATE vault_rotations SET state = 'cancelled', finished_at = unixepoch(), progress = NULL WHERE ${cancellable}`,
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
    const [row] = await this.#database.read(`SELECT ${columns} FROM vault_rotations ${clause} LIMIT 1`, args);
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

/** What the update leaves out stays as it is, but for the error. */
function updateStatement(id: string, update: RotationUpdate): Statement {
  const sql = `UPDATE vault_rotations SET state = ?, error = ?,
      rows_scanned = coalesce(?, rows_scanned), rows_rotated = coalesce(?, rows_rotated),
      rows_already_rotated = coalesce(?, rows_already_rotated), rows_skipped = coalesce(?, rows_skipped),
      rows_verified = coalesce(?, rows_verified), rows_found_late = rows_found_late + ?,
      snapshot = coalesce(?, snapshot), switched = max(switched, ?)
    WHERE id = ?`;
  const { rowsScanned, rowsRotated, rowsAlreadyRotated, rowsSkipped, rowsVerified, rowsFoundLate = 0 } = update;
  const counts = [rowsScanned, rowsRotated, rowsAlreadyRotated, rowsSkipped, rowsVerified];
  const snapshot = update.snapshot === undefined ? null : JSON.stringify(update.snapshot);
  return {
    sql,
    args: [
      update.state,
      update.error ?? null,
      ...counts.map((count) => count ?? null),
      rowsFoundLate,
      snapshot,
      update.isSwitched ? 1 : 0,
      id,
    ],
  };
}

function toRotationRecord(row: Row): RotationRecord {
  const state = text(row, 'state') as RotationState;
  return {
    id: text(row, 'id'),
    state,
    fromKeyId: text(row, 'from_key_id'),
    toKeyId: text(row, 'to_key_id'),
    upgradeFormat: integer(row, 'upgrade_format') === 1,
    skippedRows: JSON.parse(text(row, 'skipped_rows')) as SkippedRow[],
    coveredTables: JSON.parse(text(row, 'covered_tables')) as string[],
    isRerun: integer(row, 'rerun') === 1,
    rowsScanned: integer(row, 'rows_scanned'),
    rowsRotated: integer(row, 'rows_rotated'),
    rowsAlreadyRotated: integer(row, 'rows_already_rotated'),
    rowsSkipped: integer(row, 'rows_skipped'),
    rowsVerified: integer(row, 'rows_verified'),
    rowsFoundLate: integer(row, 'rows_found_late'),
    error: textOrNull(row, 'error'),
    startedAt: integer(row, 'started_at'),
    finishedAt: integerOrNull(row, 'finished_at'),
    progress: isRunning({ state }) ? fromJson<RotationProgress>(textOrNull(row, 'progress')) : null,
    snapshot: fromJson<RotationSnapshot>(textOrNull(row, 'snapshot')),
    isSwitched: integer(row, 'switched') === 1,
  };
}

function fromJson<Value>(json: string | null): Value | null {
  return json === null ? null : (JSON.parse(json) as Value);
}
