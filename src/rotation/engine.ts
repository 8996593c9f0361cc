/**
 * Rotates the master key: gate, switch, write back, verify. Whatever interrupts it, the same call finishes it, and no row
 * is ever without a key of the keyring that opens it.
 */

import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Keyring } from '../crypto/keyring.ts';
import { NotFoundError, RotationInProgressError, StorageUnavailableError, VaultError } from '../errors.ts';
import type { ActiveKey } from '../keys/active-key.ts';
import { nameOf } from '../keys/adoption.ts';
import { assertNothingUncovered, type CoverageSettings, inspectCoverage } from '../keys/coverage.ts';
import { type Database, GuardFailedError, type Statement } from '../store/database.ts';
import { type EncryptedTables, tableStateGuard } from '../store/encrypted-tables.ts';
import { activateStatements, type MasterKeyStore } from '../store/master-keys.ts';
import { isMigrated, restoreColumns } from '../store/migrations.ts';
import { type ReplicaStore, replicaKeysGuard } from '../store/replicas.ts';
import type { RotationRecord, RotationStore, RotationUpdate } from '../store/rotations.ts';
import { RowClassifier } from './classify.ts';
import { assertPassed, type GateReport, gate } from './gate.ts';
import { LeaseHolder } from './lease-holder.ts';
import { planRotation, type RotationPlan, type RotationRequest } from './plan.ts';
import { Progress, type ProgressReport } from './progress.ts';
import { assertReplicasHoldKeys, replicasHoldKeysStatements } from './replica-check.ts';
import { verify } from './verify.ts';
import { prepareOneCommit, type WriteBackContext, writeChunks } from './write-back.ts';

/** How often a commit that somebody else's write made fail is prepared anew before the rotation goes on in chunks. */
const maxCommitAttempts = 5;
/** How often rows that another program goes on writing under the old key are rotated before that is an error. */
const maxVerifyPasses = 5;
/** One commit takes at most 16 MiB of ciphertext, twice as many hex characters. */
const maxCommitCharacters = 2 * 16 * 1024 * 1024;

export interface EngineContext {
  readonly database: Database;
  readonly tables: EncryptedTables;
  readonly masterKeys: MasterKeyStore;
  readonly rotations: RotationStore;
  readonly replicas: ReplicaStore;
  readonly keyring: Keyring;
  readonly activeKey: ActiveKey;
  readonly coverage: CoverageSettings;
  /** Up to so many rows are rotated in one commit. */
  readonly atomicRows: number;
  readonly logger: Logger;
}

export interface DryRun extends GateReport {
  readonly fromKeyId: string;
  readonly toKeyId: string;
}

export interface RunningRotation {
  readonly id: string;
  readonly progress: () => ProgressReport;
  /** Settles when it has ended; rejects with why it did not complete. */
  readonly done: Promise<RotationRecord>;
}

interface Run extends WriteBackContext {
  readonly holder: LeaseHolder;
  /** Whether any of its writes, the switch included, may have been committed. */
  mayHaveWritten: boolean;
}

export class RotationEngine {
  readonly #context: EngineContext;
  readonly #stop = new AbortController();
  #running: RunningRotation | null = null;

  constructor(context: EngineContext) {
    this.#context = context;
  }

  /** The one that this process runs, or null. */
  get running(): RunningRotation | null {
    return this.#running;
  }

  /** The gate alone: takes no lease and changes nothing. Throws what {@link start} would. */
  async dryRun(request: RotationRequest, progress = new Progress()): Promise<DryRun> {
    const { tables, keyring } = this.#context;
    const plan = await this.#plan(request, await isMigrated(this.#context.database));
    await this.#assertCovered();
    const report = await gate(tables, this.#tableNames, new RowClassifier(plan, keyring), progress);
    assertPassed(report);
    return { ...report, fromKeyId: plan.fromKeyId, toKeyId: plan.to.id };
  }

  /**
   * Begins a rotation, or takes up the unfinished one. Throws ValidationError, ConfigurationError, or
   * RotationInProgressError where another one runs. What goes wrong later rejects `done`.
   */
  async start(request: RotationRequest): Promise<RunningRotation> {
    const { rotations, tables, keyring } = this.#context;
    const plan = await this.#plan(request, true);
    await assertReplicasHoldKeys(this.#context.replicas, plan);
    const id = plan.unfinished?.id ?? randomUUID();
    const lease = await rotations.begin({ ...plan, id, toKeyId: plan.to.id }, randomUUID());
    if (lease === null) throw await this.#inProgress();
    const progress = new Progress();
    const holder = new LeaseHolder(rotations, lease, this.#stop.signal);
    const classifier = new RowClassifier(plan, keyring);
    const mayHaveWritten = plan.unfinished !== null && plan.activeKeyId === plan.to.id;
    const run = { tables, tableNames: this.#tableNames, plan, classifier, progress, holder, mayHaveWritten };
    const running = { id, progress: () => progress.report(), done: this.#finish(run) };
    running.done.catch(() => undefined);
    this.#running = running;
    return running;
  }

  /** Throws NotFoundError. */
  async find(id: string): Promise<RotationRecord> {
    const rotation = await this.#context.rotations.find(id);
    if (rotation === null) throw new NotFoundError('There is no such rotation.');
    return rotation;
  }

  /**
   * Ends a rotation that has not switched the active key, whichever process runs it. Throws NotFoundError, or
   * RotationInProgressError where it has switched or ended otherwise: the way back is then a rotation back.
   */
  async cancel(id: string): Promise<RotationRecord> {
    const isCancelled = await this.#context.rotations.cancel(id);
    const rotation = await this.find(id);
    if (isCancelled || rotation.state === 'cancelled') return rotation;
    throw new RotationInProgressError(
      `Rotation ${id} is ${rotation.state} and cannot be cancelled any more. To undo it, rotate from ${rotation.toKeyId} back to ${rotation.fromKeyId}.`,
      { rotation_id: id },
    );
  }

  /** Stops a running rotation at its next step, as an interrupted one that the same call finishes. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running?.done.catch(() => undefined);
  }

  get #tableNames(): readonly string[] {
    return this.#context.coverage.encryptedTables;
  }

  #plan(request: RotationRequest, hasRecords: boolean): Promise<RotationPlan> {
    const { tables, masterKeys, rotations, keyring } = this.#context;
    const records = hasRecords ? { masterKeys, rotations } : null;
    return planRotation({ tables, tableNames: this.#tableNames, records, keyring }, request);
  }

  /** What a condition of the rotation's own statements, which somebody else has broken, means for the operator. */
  async #explain(error: unknown, plan: RotationPlan): Promise<unknown> {
    if (!(error instanceof GuardFailedError)) return error;
    if (error.guard !== replicaKeysGuard) return this.#inProgress();
    return assertReplicasHoldKeys(this.#context.replicas, plan).then(
      () => error,
      (reason: unknown) => reason,
    );
  }

  async #inProgress(): Promise<RotationInProgressError> {
    const { rotations } = this.#context;
    const runningId = (await rotations.findRunningId()) ?? (await rotations.findUnfinished())?.id ?? null;
    const message =
      runningId === null
        ? 'Another process has just finished this rotation: run it again to see that all is done.'
        : `Rotation ${runningId} is running: wait for it, see GET /admin/rotate/${runningId}.`;
    return new RotationInProgressError(message, { rotation_id: runningId });
  }

  async #assertCovered(): Promise<void> {
    assertNothingUncovered(await inspectCoverage(this.#context.tables, this.#context.coverage));
  }

  /** Runs to the end and records how it ended, whatever that is. */
  async #finish(run: Run): Promise<RotationRecord> {
    const { rotations, logger } = this.#context;
    const { holder, plan } = run;
    const { rotationId } = holder.lease;
    try {
      logger.info({ rotation_id: rotationId, from_key_id: plan.fromKeyId, to_key_id: plan.to.id }, 'rotation started');
      await this.#writeAll(run);
      this.#context.activeKey.forget();
      const end = await this.#verifyAll(run);
      await rotations.finish(holder.lease, end);
      logger.info({ rotation_id: rotationId, state: end.state }, 'rotation ended');
    } catch (error) {
      const ended = error instanceof GuardFailedError ? await rotations.find(rotationId).catch(() => null) : null;
      if (ended?.state === 'cancelled') return ended;
      const reason = await this.#explain(error, plan).catch(() => error);
      await this.#recordFailure(run, reason);
      throw reason;
    } finally {
      holder.stop();
      if (this.#running?.id === rotationId) this.#running = null;
    }
    return this.find(rotationId);
  }

  /** Returns once every row was under the new key, or skipped, at the moment it was read. */
  async #writeAll(run: Run): Promise<void> {
    for (let attempt = 1; attempt <= maxCommitAttempts; attempt += 1) {
      const report = await this.#gate(run);
      if (report.rowsScanned > this.#context.atomicRows || report.ciphertextCharacters > maxCommitCharacters) break;
      if (await this.#tryOneCommit(run)) return;
    }
    await this.#writeInChunks(run);
  }

  async #gate(run: Run): Promise<GateReport> {
    const { database, rotations, tables } = this.#context;
    const { holder, classifier, progress } = run;
    progress.begin(0);
    await restoreColumns(database);
    await this.#assertCovered();
    const report = await gate(tables, run.tableNames, classifier, progress);
    const { rowsScanned, rowsSkipped, rowsNew, rowsToUpgrade } = report;
    const counts = { rowsScanned, rowsSkipped, rowsRotated: 0, rowsAlreadyRotated: rowsNew - rowsToUpgrade };
    await rotations.advance(holder.lease, { state: 'gating', ...counts });
    assertPassed(report);
    progress.begin(rowsScanned);
    return report;
  }

  /** False where a write that came between has made it fail: nothing was written then. */
  async #tryOneCommit(run: Run): Promise<boolean> {
    const commit = await prepareOneCommit(run);
    if (commit === null) return false;
    run.holder.assertHeld();
    try {
      await this.#switch(run, { state: 'verifying', rowsRotated: commit.rowsRotated }, commit.statements);
      return true;
    } catch (error) {
      if (error instanceof GuardFailedError && error.guard === tableStateGuard) return false;
      throw error;
    }
  }

  async #writeInChunks(run: Run): Promise<void> {
    const { rotations } = this.#context;
    const { holder } = run;
    await this.#switch(run, { state: 'writing' }, []);
    let rowsRotated = (await rotations.find(holder.lease.rotationId))?.rowsRotated ?? 0;
    await writeChunks(run, async (chunk) => {
      holder.assertHeld();
      const [changed = 0] = await rotations.advance(holder.lease, { state: 'writing', rowsRotated }, [chunk]);
      rowsRotated += changed;
    });
    await rotations.advance(holder.lease, { state: 'writing', rowsRotated });
  }

  /** Makes the new key the active one, in one transaction with these statements. */
  async #switch(run: Run, update: RotationUpdate, statements: readonly Statement[]): Promise<void> {
    const { rotations, masterKeys, keyring } = this.#context;
    const { plan, holder, mayHaveWritten } = run;
    const from = keyring.get(plan.fromKeyId);
    if (plan.activeKeyId === null && from !== undefined) await masterKeys.adopt(nameOf(from));
    const activation = activateStatements(plan.activeKeyId ?? plan.fromKeyId, nameOf(plan.to));
    run.mayHaveWritten = true;
    try {
      await rotations.advance(holder.lease, update, [...replicasHoldKeysStatements(plan), ...activation, ...statements]);
    } catch (error) {
      if (error instanceof GuardFailedError) run.mayHaveWritten = mayHaveWritten;
      throw error;
    }
  }

  /** Rows that were written under the old key meanwhile, by a program that does not know better, are rotated as well. */
  async #verifyAll(run: Run): Promise<RotationUpdate> {
    const { rotations, tables } = this.#context;
    const { holder, classifier, progress } = run;
    for (let pass = 1; ; pass += 1) {
      holder.assertHeld();
      await rotations.advance(holder.lease, { state: 'verifying' });
      progress.begin((await rotations.find(holder.lease.rotationId))?.rowsScanned ?? 0);
      const { rowsScanned, rowsVerified, rowsSkipped, rowsLeft, rowsFailed, failures } = await verify(
        tables,
        run.tableNames,
        classifier,
        progress,
      );
      if (rowsLeft === 0 && rowsFailed === 0) return { state: 'completed', rowsScanned, rowsVerified, rowsSkipped };
      if (rowsFailed > 0 || pass === maxVerifyPasses) {
        const rows = failures.map(({ table, id, reason }) => `${table}.id=${id} (${reason})`).join(', ');
        const error = `${rowsFailed} row(s) open with neither key: ${rows}; ${rowsLeft} row(s) are under the old key again.`;
        return { state: 'verify_failed', rowsScanned, rowsVerified, rowsSkipped, error };
      }
      await this.#writeInChunks(run);
    }
  }

  /** Best effort: where the database cannot be reached, the lease runs out and the record stays as it was. */
  async #recordFailure({ holder, mayHaveWritten }: Run, error: unknown): Promise<void> {
    const { rotations, logger } = this.#context;
    const { rotationId } = holder.lease;
    const message = error instanceof VaultError ? error.message : 'An unexpected error; see the log.';
    if (!(error instanceof VaultError)) logger.error({ err: error, rotation_id: rotationId }, 'rotation failed unexpectedly');
    try {
      const isRefused = error instanceof VaultError && !(error instanceof StorageUnavailableError);
      const state = isRefused && !mayHaveWritten ? 'failed' : 'interrupted';
      await rotations.finish(holder.lease, { state, error: message });
      logger.warn({ rotation_id: rotationId, state, reason: message }, 'rotation ended');
    } catch {
      logger.warn({ rotation_id: rotationId, reason: message }, 'rotation ended, which could not be recorded');
    }
  }
}
