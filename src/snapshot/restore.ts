/** Restores a snapshot: all of it is checked before any row is touched, and one transaction then writes everything or nothing. */

import { randomUUID } from 'node:crypto';
import { unlink } from 'node:fs/promises';
import type { Actor, AuditEvent } from '../audit/event.ts';
import type { AuditJournal } from '../audit/journal.ts';
import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { ReplicaMissingKeyError, RotationInProgressError, StorageUnavailableError, ValidationError } from '../errors.ts';
import { missingKeyError } from '../keys/active-key.ts';
import { adoptActiveKey } from '../keys/adoption.ts';
import { inspectCoverage, rowsOf, tableAmong } from '../keys/coverage.ts';
import { auditStatement } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { ciphertextColumns } from '../store/encrypted-rows.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import { isConstraint } from '../store/failures.ts';
import { GuardFailedError, type Statement } from '../store/guards.ts';
import { activeKeyStatements, registerStatement } from '../store/master-keys.ts';
import { addMissingColumns } from '../store/migrations.ts';
import { replicaKeysGuard, replicaKeysStatement } from '../store/replicas.ts';
import type { MovedTable } from '../store/restore-moves.ts';
import { presentGuard, type RestoreStore } from '../store/restores.ts';
import type { SnapshotFile } from '../store/rotation-record.ts';
import { noRotationGuard, noRotationStatement, type RotationStore } from '../store/rotations.ts';
import type { CodedRow, TableShape } from '../store/snapshot-rows.ts';
import { type CheckedSnapshot, checkSnapshot, readSnapshotRows } from './check.ts';
import { newSnapshotPath, writeSnapshotTo } from './file.ts';
import { fittingTables } from './fit.ts';
import { refusal } from './format.ts';
import { positionOf } from './rows.ts';
import type { Spool } from './spool.ts';
import { noteIdentities, stageMissing, stageWhole } from './stage.ts';
import { assemble, type TakeContext, takeSnapshot } from './take.ts';

/** How often the tables are read anew because other writers changed them between the read and the replacement. */
const maxReplaceAttempts = 5;

export type RestoreMode = 'merge' | 'replace';

export interface RestoreContext extends TakeContext {
  readonly tables: EncryptedTables;
  readonly database: Database;
  readonly rotations: RotationStore;
  readonly restores: RestoreStore;
  readonly journal: AuditJournal;
  /** Where the state before a replacement is kept, or null. */
  readonly snapshotDir: string | null;
  /** Called once another key may have become active. */
  readonly onSwitched: () => void;
}

export interface RestoreResult {
  /** Rows that were written. */
  readonly restored: number;
  /**
   * Rows of the snapshot that were not written. After a merge the table has them already, or a newer row of the same tenant and
   * name; after a replacement another row of the snapshot had the same primary key.
   */
  readonly kept: number;
  /**
   * The part of `kept`, after a merge, whose counterpart in the table does not open and is left, since a key that the keyring
   * lacks may open it.
   */
  readonly left: number;
  /** The state before a replacement; null after a merge. */
  readonly before: SnapshotFile | null;
}

/** Throws ValidationError if this mode cannot be used at all. */
export function assertMode({ snapshotDir }: Pick<RestoreContext, 'snapshotDir'>, mode: RestoreMode): void {
  if (mode === 'merge' || snapshotDir !== null) return;
  throw new ValidationError('mode=replace needs VAULT_SNAPSHOT_DIR, for a snapshot of the present state.');
}

/**
 * `merge` puts back rows that are missing or do not open now; `replace` makes the tables, and the active key, what the snapshot
 * holds. Throws InvalidSnapshotError, RotationInProgressError, ReplicaMissingKeyError, ConfigurationError if the keyring lacks
 * the active key, or StorageUnavailableError. Nothing was written then, except that after StorageUnavailableError the last
 * transaction may have been: repeating the call settles it.
 */
export async function restoreSnapshot(
  context: RestoreContext,
  actor: Actor,
  spool: Spool,
  mode: RestoreMode,
): Promise<RestoreResult> {
  assertMode(context, mode);
  const checked = await checkSnapshot(spool, context.keyring, context.throttle);
  const fence = await context.rotations.fence();
  await assertNoRotation(context.rotations);
  await addMissingColumns(context.database);
  const moved = await fittingTables(context, checked.header);
  await context.restores.forgetStale();
  const id = randomUUID();
  await context.restores.begin(id);
  try {
    return mode === 'merge'
      ? await merge({ ...context, actor, id, moved, fence }, spool, checked)
      : await replace({ ...context, actor, id, moved, fence }, spool, checked);
  } catch (error) {
    await context.restores.forget(id).catch(() => undefined);
    throw await explain(context.rotations, error);
  }
}

interface Restoring extends RestoreContext {
  readonly actor: Actor;
  readonly id: string;
  readonly moved: readonly MovedTable[];
  /** The fencing token before anything was read: no rotation may begin in between. */
  readonly fence: number;
}

async function merge(restoring: Restoring, spool: Spool, { header, rows }: CheckedSnapshot): Promise<RestoreResult> {
  const { restores, keyring, journal, actor, id, moved, fence, throttle } = restoring;
  const mayLackKey = await mayLackKeyOf(restoring);
  const staging = { restores, keyring, mayLackKey, id, shapes: shapesByName(moved), throttle };
  await noteIdentities(staging, () => readSnapshotRows(spool));
  await restores.pair(id, moved);
  const { keyIds, rowsLeft } = await stageMissing(staging, readSnapshotRows(spool));
  const activeKey = keyring.get(header.active_key_id);
  const conditions = [
    noRotationStatement(fence),
    ...(keyIds.size === 0 ? [] : [replicaKeysStatement([...keyIds])]),
    ...registerStatements(keyring, keyIds),
    ...(activeKey !== undefined && (await isEmpty(restoring)) ? activeKeyStatements(activeKey, true) : []),
  ];
  const takenAt = Math.floor(Date.parse(header.created_at) / 1000);
  // Ends here if nobody waits for the result any more.
  throttle();
  const restored = await journal.recorded(actor, restoreEvent({ mode: 'merge', rows, left: rowsLeft }), (record) =>
    restores.merge(id, moved, takenAt, [...conditions, auditStatement(record)]),
  );
  // If rows were left, a missing key may be the active one; the next start then decides.
  if (rowsLeft === 0 && (await restoring.masterKeys.activeKeyId()) === null) {
    await adoptActiveKey(restoring);
    restoring.onSwitched();
  }
  return { restored, kept: rows - restored, left: rowsLeft, before: null };
}

/** Whether no covered table holds a row. */
async function isEmpty({ tables, coverage }: RestoreContext): Promise<boolean> {
  return rowsOf(await inspectCoverage(tables, coverage, 1)) === 0;
}

/**
 * Whether rows may be under a key that the keyring lacks: the database knows such a key, or the vault has never served it. Throws
 * ConfigurationError if the active key is missing.
 */
async function mayLackKeyOf({ masterKeys, keyring }: RestoreContext): Promise<boolean> {
  const known = await masterKeys.all();
  const activeKeyId = await masterKeys.activeKeyId();
  if (activeKeyId !== null && keyring.get(activeKeyId) === undefined) throw missingKeyError(known, activeKeyId);
  return activeKeyId === null || known.some(({ keyId }) => keyring.get(keyId) === undefined);
}

/** Statements that record the keys of the rows, so that if one is missing later it is known that rows may need it. */
function registerStatements(keyring: Keyring, keyIds: Iterable<string>): Statement[] {
  return [...keyIds].flatMap((keyId) => {
    const key = keyring.get(keyId);
    return key === undefined ? [] : [registerStatement(key)];
  });
}

async function replace(restoring: Restoring, spool: Spool, checked: CheckedSnapshot): Promise<RestoreResult> {
  const { restores, id, moved, throttle } = restoring;
  const activeKey = activeKeyOf(restoring.keyring, checked.header.active_key_id);
  const staging = { restores, id, shapes: shapesByName(moved), throttle };
  await noteIdentities(staging, () => readSnapshotRows(spool));
  await stageWhole(staging, readSnapshotRows(spool));
  const conditions = [
    noRotationStatement(restoring.fence),
    replicaKeysStatement([...new Set([activeKey.id, ...checked.rowsByKeyId.keys()])]),
    ...registerStatements(restoring.keyring, checked.rowsByKeyId.keys()),
    ...activeKeyStatements(activeKey, false),
  ];
  for (let attempt = 1; attempt <= maxReplaceAttempts; attempt += 1) {
    const before = await keepPresent(restoring, activeKey.id);
    throttle();
    const restored = await tryReplace(restoring, conditions, before, checked.rows);
    if (restored !== null) return { restored, kept: checked.rows - restored, left: 0, before };
  }
  throw new StorageUnavailableError('Others keep writing to the tables: stop them, or try again. Nothing was written.');
}

/** Null if the tables are no longer what `before` holds. Deletes the file of `before` if certainly nothing was written. */
async function tryReplace(
  { restores, onSwitched, journal, actor, id, moved }: Restoring,
  conditions: readonly Statement[],
  before: SnapshotFile,
  rows: number,
): Promise<number | null> {
  const kept = { before_path: before.path, before_sha256: before.sha256 };
  try {
    const restored = await journal.recorded(actor, restoreEvent({ mode: 'replace', rows, ...kept }), (record) =>
      restores.replaceAll(id, moved, [...conditions, auditStatement(record)]),
    );
    onSwitched();
    return restored;
  } catch (error) {
    onSwitched();
    // Kept unless it is certain that nothing was written: it may be the only copy of the previous state.
    if (error instanceof GuardFailedError || isConstraint(error)) await unlink(before.path).catch(() => undefined);
    if (error instanceof GuardFailedError && error.guard === presentGuard) return null;
    throw error;
  }
}

function restoreEvent(details: Readonly<Record<string, unknown>>): AuditEvent {
  return { act: 'snapshot.restore', outcome: 'done', details };
}

/** Writes a snapshot of the present state, and records what it holds so that nothing else is overwritten. */
async function keepPresent(restoring: Restoring, firstKeyId: string): Promise<SnapshotFile> {
  const { restores, snapshotDir, keyring, id, moved } = restoring;
  const replaced = moved.map(({ table }) => table);
  await restores.forgetPresent(id);
  const onPage = async ({ table, columns }: TableShape, page: readonly CodedRow[]): Promise<void> => {
    const name = tableAmong(replaced, table);
    if (name === undefined) return;
    const positions = ciphertextColumns.map((column) => positionOf(columns, column));
    const rows = page.map(({ rowId, cells }) => {
      const all = JSON.parse(cells) as unknown[];
      return { rowId, cells: JSON.stringify(positions.map((position) => all[position])) };
    });
    await restores.stagePresent(id, name, rows);
  };
  const taken = await takeSnapshot(restoring, { firstKeyId, onPage });
  return writeSnapshotTo(newSnapshotPath(snapshotDir ?? '.'), assemble(taken, keyring));
}

function shapesByName(tables: readonly MovedTable[]): ReadonlyMap<string, MovedTable> {
  return new Map(tables.map((table) => [table.table, table]));
}

function activeKeyOf(keyring: Keyring, keyId: string): MasterKey {
  const key = keyring.get(keyId);
  if (key !== undefined) return key;
  throw refusal('missing_key', `its active master key ${keyId} is not in the keyring: add it as PROVARA_MASTER_KEY_OLD`, {
    key_id: keyId,
  });
}

async function assertNoRotation(rotations: RotationStore): Promise<void> {
  const unfinished = await rotations.findUnfinished();
  if (unfinished === null) return;
  throw new RotationInProgressError(
    `Rotation ${unfinished.id} is unfinished: finish it, or cancel it before it switches, and restore then.`,
    { rotation_id: unfinished.id },
  );
}

/** What a broken guard of the last transaction means for the operator. */
async function explain(rotations: RotationStore, error: unknown): Promise<unknown> {
  if (isConstraint(error)) {
    return refusal(
      'constraint',
      'one of its rows conflicts with another of them or with a present row, or lacks a column that the table requires',
    );
  }
  if (!(error instanceof GuardFailedError)) return error;
  if (error.guard === replicaKeysGuard) {
    return new ReplicaMissingKeyError(
      'A live replica lacks a key that the snapshot needs: deploy it with the key, or wait 15 seconds if it is gone.',
    );
  }
  if (error.guard !== noRotationGuard) {
    return new StorageUnavailableError('What was prepared for the restore has gone: run it again. Nothing was written.');
  }
  return assertNoRotation(rotations).then(
    () => new RotationInProgressError('A rotation has just ended: run the restore again.'),
    (reason: unknown) => reason,
  );
}
