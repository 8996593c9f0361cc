/** One attempt at a rotation, from the gate to its recorded end; it holds the lease, and writes only while it does. */

import type { Logger } from 'pino';
import type { Actor, AuditEvent } from '../audit/event.ts';
import type { AuditJournal } from '../audit/journal.ts';
import type { AuditKeys } from '../audit/keys.ts';
import type { Keyring } from '../crypto/keyring.ts';
import { DecryptGateFailedError, StorageUnavailableError, VaultError } from '../errors.ts';
import { nameOfKey } from '../keys/active-key.ts';
import type { CoverageSettings } from '../keys/coverage.ts';
import type { CoveredPart } from '../keys/covered-rows.ts';
import { auditStatement } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { type EncryptedTables, tableStateGuard } from '../store/encrypted-tables.ts';
import { isConstraint } from '../store/failures.ts';
import { GuardFailedError, type Statement } from '../store/guards.ts';
import { activateStatements, type MasterKeyStore } from '../store/master-keys.ts';
import { addMissingColumns } from '../store/migrations.ts';
import type { ReplicaStore } from '../store/replicas.ts';
import type { RotationRecord, RotationUpdate, SnapshotFile } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import { findRotation } from './control.ts';
import { explainFailure } from './failures.ts';
import { assertPassed, openAllRows, sealsFirstPages } from './gate.ts';
import type { Inspection, TableWork } from './inspection.ts';
import type { LeaseHolder } from './lease-holder.ts';
import { underAnotherKey, verificationFailure } from './messages.ts';
import type { PageReport, SealedPage } from './page-work.ts';
import type { StartPageWorkers } from './page-workers.ts';
import type { RotationPlan } from './plan.ts';
import { Progress } from './progress.ts';
import { replicasHoldKeysStatements } from './replica-check.ts';
import { rowsLateOf, verify } from './verify.ts';
import { prepareOneCommit, sealedPages, sealNow, writeChunks } from './write-back.ts';

/** How often a commit that failed because of a concurrent write is prepared anew before the rotation continues in chunks. */
const maxCommitAttempts = 5;
/** How often everything is read back, if each pass finds rows that another program has written under the old key. */
const maxVerifyPasses = 3;
/** One commit takes at most 16 MiB of ciphertext, which is twice as many hex characters. */
const maxCommitCharacters = 2 * 16 * 1024 * 1024;
const logIntervalMs = 10_000;

export interface RotationContext {
  readonly database: Database;
  readonly tables: EncryptedTables;
  readonly masterKeys: MasterKeyStore;
  readonly rotations: RotationStore;
  readonly replicas: ReplicaStore;
  readonly keyring: Keyring;
  readonly coverage: CoverageSettings;
  /** Up to this many rows are rotated in one commit. */
  readonly atomicRows: number;
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Records the rotation's acts within its own transactions. */
  readonly journal: AuditJournal;
  readonly auditKeys: AuditKeys;
  /** Takes a snapshot of the covered tables; null if no snapshot folder is configured. Throws ConfigurationError. */
  readonly writeSnapshot: ((actor: Actor) => Promise<SnapshotFile>) | null;
  readonly startWorkers: StartPageWorkers;
  /** Called once every row has been written; not called if the rotation is interrupted before, even after the switch. */
  readonly onSwitched: () => void;
}

export class RotationRun {
  readonly #context: RotationContext;
  readonly #plan: RotationPlan;
  readonly #holder: LeaseHolder;
  readonly #progress: Progress;
  readonly #work: TableWork;
  /** Whether any of its writes, including the switch, may have been committed. */
  #mayHaveWritten: boolean;
  /** Whether the switch is known to be committed, by this attempt or an earlier one. */
  #isSwitched: boolean;
  /** Whether the single commit took longer than the server allows. */
  #isTooSlow = false;
  /** Rows found by the last gate, and rows rotated since. */
  #rowsScanned = 0;
  #rowsRotated = 0;
  /** The snapshot of the state before, if one was written. */
  #snapshot: SnapshotFile | null = null;

  constructor(context: RotationContext, plan: RotationPlan, holder: LeaseHolder, progress: Progress) {
    this.#context = context;
    this.#plan = plan;
    this.#holder = holder;
    this.#progress = progress;
    const { tables, coverage } = context;
    const workers = context.startWorkers(plan, context.keyring);
    const assertGoesOn = (): void => holder.assertHeld();
    this.#work = { tables, coverage, workers, progress, assertGoesOn };
    this.#mayHaveWritten = plan.isSwitched;
    this.#isSwitched = plan.isSwitched;
  }

  /**
   * Runs to the end and records the outcome, whatever it is. Rejects with the reason if the rotation did not complete, as
   * {@link explainFailure} words it.
   */
  async finish(): Promise<RotationRecord> {
    const { rotations, masterKeys, logger } = this.#context;
    const { fromKeyId, to } = this.#plan;
    const rotationId = this.#rotationId;
    const timer = setInterval(() => this.#logProgress(), logIntervalMs).unref();
    try {
      const known = await masterKeys.all();
      const keys = { from_key_id: nameOfKey(known, fromKeyId), to_key_id: nameOfKey(known, to.id) };
      logger.info({ rotation_id: rotationId, ...keys }, 'rotation started');
      await this.#writeAll();
      this.#context.onSwitched();
      const end = await this.#verifyAll();
      await this.#recordEnd(end);
      logger.info({ rotation_id: rotationId, state: end.state }, 'rotation ended');
    } catch (error) {
      const isTaken = error instanceof GuardFailedError || this.#holder.isLost;
      const ended = isTaken ? await rotations.find(rotationId).catch(() => null) : null;
      if (ended?.state === 'cancelled') return ended;
      const reason = await explainFailure(this.#context, this.#plan, this.#isSwitched, error).catch(() => error);
      await this.#recordFailure(reason);
      throw reason;
    } finally {
      clearInterval(timer);
      this.#holder.stop();
      await this.#work.workers.close();
    }
    return findRotation(rotations, rotationId);
  }

  get #rotationId(): string {
    return this.#holder.lease.rotationId;
  }

  #logProgress(): void {
    const { rowsDone, rowsTotal, rowsPerSecond, secondsLeft } = this.#progress.report();
    const counts = { rows_done: rowsDone, rows_total: rowsTotal, rows_per_second: rowsPerSecond, seconds_left: secondsLeft };
    this.#context.logger.info({ rotation_id: this.#rotationId, ...counts }, 'rotation running');
  }

  /** Returns once every row was either under the new key or skipped at the moment it was read. */
  async #writeAll(): Promise<void> {
    let sealed: SealedPage[] = [];
    for (let attempt = 1; attempt <= maxCommitAttempts; attempt += 1) {
      const report = await this.#gate();
      ({ sealed } = report);
      const isTooLarge = report.rowsScanned > this.#context.atomicRows || report.ciphertextCharacters > maxCommitCharacters;
      if (isTooLarge || this.#isTooSlow) break;
      // Pages that fail to be committed are outdated, and would hold memory until the next gate has ended.
      if (await this.#tryOneCommit(sealed.splice(0))) return;
      // The less time between a gate and its commit, the fewer writes come between.
      this.#work.workers.hurry();
    }
    await this.#switch({ state: 'writing', isSwitched: true }, []);
    await this.#writeInChunks('writing', this.#work, sealedPages(this.#work, sealed));
  }

  async #gate(): Promise<Inspection> {
    const { database, rotations } = this.#context;
    await addMissingColumns(database);
    const report = await openAllRows(this.#work, sealsFirstPages);
    const { rowsScanned, rowsSkipped, rowsNew, rowsToUpgrade, rowsOther } = report;
    [this.#rowsScanned, this.#rowsRotated] = [rowsScanned, 0];
    const counts = { rowsScanned, rowsSkipped, rowsRotated: 0, rowsAlreadyRotated: rowsNew - rowsToUpgrade };
    await rotations.advance(this.#holder.lease, { state: 'gating', ...counts });
    assertPassed(report);
    await this.#recordOldKey(report);
    if (rowsOther > 0)
      this.#context.logger.warn({ rotation_id: this.#rotationId, rows_other: rowsOther }, `rows ${underAnotherKey}`);
    if (rowsScanned > rowsSkipped + rowsNew - rowsToUpgrade) await this.#keepSnapshot();
    this.#progress.begin(rowsScanned);
    return report;
  }

  /** Records the key that rows were found under, and makes it the active key of a database that names none yet. */
  async #recordOldKey({ rowsOld, rowsOther, rowsSkipped }: Inspection): Promise<void> {
    const { from, to, activeKeyId } = this.#plan;
    const { masterKeys } = this.#context;
    // A key that opens nothing may have been mistyped.
    const isNeeded = from !== null && (rowsOld > rowsOther || rowsSkipped > 0);
    if (activeKeyId === null) await masterKeys.adopt(isNeeded ? from : to);
    else if (isNeeded) await masterKeys.register([from]);
  }

  /** Once, and before anything is written: a rotation resumed after its switch keeps the snapshot of its first attempt. */
  async #keepSnapshot(): Promise<void> {
    const { writeSnapshot, rotations } = this.#context;
    if (writeSnapshot === null || this.#snapshot !== null || this.#mayHaveWritten) return;
    const snapshot = await writeSnapshot(this.#plan.actor);
    this.#holder.assertHeld();
    await rotations.advance(this.#holder.lease, { state: 'gating', snapshot });
    this.#snapshot = snapshot;
  }

  /** False if nothing was committed: a concurrent write made the batch fail, or a server did not carry it out in time. */
  async #tryOneCommit(sealed: SealedPage[]): Promise<boolean> {
    const commit = await prepareOneCommit(this.#work, this.#plan.to.id, sealed);
    if (commit === null) return false;
    this.#holder.assertHeld();
    try {
      await this.#switch({ state: 'verifying', rowsRotated: commit.rowsRotated, isSwitched: true }, commit.statements);
      this.#rowsRotated = commit.rowsRotated;
      return true;
    } catch (error) {
      if (error instanceof GuardFailedError && error.guard === tableStateGuard) return false;
      const { database, rotations } = this.#context;
      if (!(error instanceof StorageUnavailableError) || database.isOnFile) throw error;
      this.#isTooSlow = true;
      // If the rotation had switched before, its record says nothing about this commit; writing in chunks finds out.
      const isCommitted = !this.#plan.isSwitched && (await findRotation(rotations, this.#rotationId)).isSwitched;
      if (!isCommitted) return false;
      this.#isSwitched = true;
      this.#rowsRotated = commit.rowsRotated;
      return true;
    }
  }

  async #writeInChunks(state: 'writing' | 'verifying', work: TableWork, pages: AsyncIterable<SealedPage>): Promise<void> {
    const { database, rotations, replicas } = this.#context;
    const { lease } = this.#holder;
    const hasNeighbours = (await replicas.live()).length > 0;
    await writeChunks(work, this.#plan.to.id, pages, async (chunk) => {
      const [changed = 0] = await rotations.advance(lease, { state, rowsRotated: this.#rowsRotated }, [chunk]);
      this.#rowsRotated += changed;
      if (hasNeighbours) await database.letOthersWrite();
      return changed;
    });
    await rotations.advance(lease, { state, rowsRotated: this.#rowsRotated });
  }

  /** Makes the new key the active one, in one transaction with these statements. */
  async #switch(update: RotationUpdate, statements: readonly Statement[]): Promise<void> {
    const { rotations } = this.#context;
    const { fromKeyId, to, activeKeyId } = this.#plan;
    const conditions = [...replicasHoldKeysStatements(this.#plan), ...activateStatements(activeKeyId ?? fromKeyId, to)];
    const mayHaveWritten = this.#mayHaveWritten;
    this.#mayHaveWritten = true;
    try {
      await this.#context.journal.recorded(this.#plan.actor, this.#switchEvent(update), (record) =>
        rotations.advance(this.#holder.lease, update, [...conditions, ...statements, auditStatement(record)]),
      );
      this.#isSwitched = true;
    } catch (error) {
      // After these errors it is certain that nothing was written.
      if (error instanceof GuardFailedError || isConstraint(error)) this.#mayHaveWritten = mayHaveWritten;
      throw error;
    }
  }

  #switchEvent({ state, rowsRotated }: RotationUpdate): AuditEvent {
    const keys = { rotation_id: this.#rotationId, from_key_id: this.#plan.fromKeyId, to_key_id: this.#plan.to.id };
    const rows = state === 'verifying' ? { in_one_commit: true, rows_rotated: rowsRotated } : { in_one_commit: false };
    const before = this.#snapshot && { before_path: this.#snapshot.path, before_sha256: this.#snapshot.sha256 };
    return { act: 'rotation.switch', outcome: 'done', details: { ...keys, ...rows, ...before } };
  }

  /** Records the end of this attempt, in the rotation's record and in the audit, in one transaction. */
  async #recordEnd(end: RotationUpdate): Promise<void> {
    const { rotations, journal } = this.#context;
    const details = { rotation_id: this.#rotationId, rows_scanned: end.rowsScanned, rows_verified: end.rowsVerified };
    const outcome = end.state === 'completed' ? 'done' : end.state;
    await journal.recorded(this.#plan.actor, { act: 'rotation.end', outcome, details }, (record) =>
      rotations.finish(this.#holder.lease, end, record),
    );
  }

  /** Also rotates rows that a program unaware of the rotation has written under the old key meanwhile. */
  async #verifyAll(): Promise<RotationUpdate> {
    const { rotations } = this.#context;
    const { lease } = this.#holder;
    for (let pass = 1; ; pass += 1) {
      this.#holder.assertHeld();
      await rotations.advance(lease, { state: 'verifying' });
      this.#progress.begin(this.#rowsScanned);
      let isAnyLate = false;
      const found = await verify(this.#work, async (late, page) => {
        isAnyLate = true;
        await this.#rotateLate(late, page);
      });
      const { rowsScanned, rowsNew, rowsToUpgrade, rowsSkipped, rowsFailed } = found;
      const rowsVerified = rowsNew - rowsToUpgrade;
      // Limited to the rows that exist: a row that was rewritten and rotated again was counted each time.
      const counts = { rowsScanned, rowsVerified, rowsSkipped, rowsRotated: Math.min(this.#rowsRotated, rowsVerified) };
      if (rowsFailed > 0 || rowsLateOf(found) > 0) {
        return { state: 'verify_failed', ...counts, error: verificationFailure(found) };
      }
      if (isAnyLate && pass < maxVerifyPasses) continue;
      return { state: 'completed', ...counts };
    }
  }

  async #rotateLate(late: readonly CoveredPart[], page: PageReport): Promise<void> {
    const { rotations, logger } = this.#context;
    const message =
      page.rowsOld > 0
        ? 'rows were edited meanwhile, and are rotated now: a program that writes under the old key needs the new one'
        : 'rows were written in the old format meanwhile, and are upgraded now';
    logger.warn({ rotation_id: this.#rotationId, rows_left: rowsLateOf(page) }, message);
    await rotations.advance(this.#holder.lease, { state: 'verifying', rowsFoundLate: page.rowsOld });
    // The rows are counted when they are read again.
    const work = { ...this.#work, progress: new Progress() };
    await this.#writeInChunks('verifying', work, sealNow(work, late));
  }

  /** Best effort: if the database cannot be reached, the lease expires and the record stays as it was. */
  async #recordFailure(error: unknown): Promise<void> {
    const { logger } = this.#context;
    const rotationId = this.#rotationId;
    const message = error instanceof VaultError ? error.message : 'An unexpected error; see the log.';
    if (!(error instanceof VaultError)) logger.error({ err: error, rotation_id: rotationId }, 'rotation failed unexpectedly');
    try {
      const end = this.#failure(error, message);
      await this.#recordEnd(end);
      logger.warn({ rotation_id: rotationId, state: end.state, reason: end.error }, 'rotation ended');
    } catch {
      logger.warn({ rotation_id: rotationId, reason: message }, 'rotation ended, which could not be recorded');
    }
  }

  #failure(error: unknown, message: string): RotationUpdate {
    if (error instanceof DecryptGateFailedError && this.#plan.isSwitched) return { state: 'verify_failed', error: message };
    const isRefused = error instanceof VaultError && !(error instanceof StorageUnavailableError);
    return { state: isRefused && !this.#mayHaveWritten ? 'failed' : 'interrupted', error: message };
  }
}
