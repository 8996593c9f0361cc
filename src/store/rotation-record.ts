/** The record of a rotation: one row of `vault_rotations`, read and written here. */

import { integer, integerOrNull, isTrue, type Row, text, textOrNull } from './connection.ts';
import type { Statement } from './guards.ts';

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

/** A row as `skip_ids` and messages name it. */
export function nameOfSkipped({ table, id }: SkippedRow): string {
  return `${table}:${id}`;
}

/** How far a rotation has come in its present phase. */
export interface RotationProgress {
  readonly rowsDone: number;
  readonly rowsTotal: number;
  readonly rowsPerSecond: number;
  /** Null until a rate is known. */
  readonly secondsLeft: number | null;
}

/** A snapshot file, which keeps the covered tables as they were. */
export interface SnapshotFile {
  /** Absolute, on the machine of the process that wrote it. */
  readonly path: string;
  /** Hash of the whole file, in hex. */
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
  /** The covered tables, with their names as spelt when the rotation was begun or last resumed. */
  readonly coveredTables: readonly string[];
  /**
   * Whether the new key was already active when the rotation began, so that a row that still needs the old key is not its fault.
   */
  readonly isRerun: boolean;
  /** Why it did not complete, or null. */
  readonly error: string | null;
  /** Unix seconds. */
  readonly startedAt: number;
  readonly finishedAt: number | null;
  /** As its owner last reported it, at most some seconds ago; null unless the rotation is running. */
  readonly progress: RotationProgress | null;
  /** Null if no snapshot folder is configured, or nothing was to be written. */
  readonly snapshot: SnapshotFile | null;
  /** Whether it has switched the active key; from then on it may have written rows. */
  readonly isSwitched: boolean;
  /** Rows found under the old key after all had been written, counted since it last ended as `verify_failed`. */
  readonly rowsFoundLate: number;
}

/** Whether some process is working on it. */
export function isRunning({ state }: Pick<RotationRecord, 'state'>): boolean {
  return runningStates.includes(state);
}

export interface RotationUpdate extends Partial<RotationCounts> {
  readonly state: RotationState;
  readonly error?: string | null;
  readonly snapshot?: SnapshotFile;
  readonly isSwitched?: true;
  /** Added to those found before. */
  readonly rowsFoundLate?: number;
}

/** Seconds without renewal after which another owner may take the lease. */
export const leaseSeconds = 15;

/**
 * A lease that expires too far in the future counts as expired too: the clock has been set back, and a live owner renews within
 * seconds.
 */
export const isLeaseExpired = `(expires_at <= unixepoch() OR expires_at > unixepoch() + ${leaseSeconds})`;

/** Whatever state its owner last recorded, a running rotation without a live lease has been abandoned. */
const presentState = `iif(state IN (${runningStates.map((state) => `'${state}'`).join(', ')}) AND NOT EXISTS (
    SELECT 1 FROM vault_rotation_lease WHERE rotation_id = vault_rotations.id AND NOT ${isLeaseExpired}), 'interrupted', state) AS state`;
export const rotationColumns = `id, ${presentState}, from_key_id, to_key_id, upgrade_format, skipped_rows, covered_tables, rerun, rows_scanned, rows_rotated,
  rows_already_rotated, rows_skipped, rows_verified, rows_found_late, error, started_at, finished_at, progress, snapshot, switched`;
/** States of a rotation that is never resumed. */
export const finalStates = "'completed', 'cancelled', 'failed'";

/** Fields missing from the update stay as they are, except the error, which is cleared. */
export function updateStatement(id: string, update: RotationUpdate): Statement {
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

export function toRotationRecord(row: Row): RotationRecord {
  const state = text(row, 'state') as RotationState;
  return {
    id: text(row, 'id'),
    state,
    fromKeyId: text(row, 'from_key_id'),
    toKeyId: text(row, 'to_key_id'),
    upgradeFormat: isTrue(row, 'upgrade_format'),
    skippedRows: JSON.parse(text(row, 'skipped_rows')) as SkippedRow[],
    coveredTables: JSON.parse(text(row, 'covered_tables')) as string[],
    isRerun: isTrue(row, 'rerun'),
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
    snapshot: fromJson<SnapshotFile>(textOrNull(row, 'snapshot')),
    isSwitched: isTrue(row, 'switched'),
  };
}

function fromJson<Value>(json: string | null): Value | null {
  return json === null ? null : (JSON.parse(json) as Value);
}
