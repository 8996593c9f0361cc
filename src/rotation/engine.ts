/**
 * Rotates the master key: gate, switch, write back, verify. After any interruption the same call finishes the rotation, and every
 * row can be opened with a key of the keyring at all times.
 */

import { randomUUID } from 'node:crypto';
import { type AuditEvent, vaultActor } from '../audit/event.ts';
import { isMigrated } from '../store/migrations.ts';
import type { RotationProgress, RotationRecord } from '../store/rotation-record.ts';
import { inProgressError } from './control.ts';
import { afterSwitch } from './failures.ts';
import { assertPassed, openAllRows } from './gate.ts';
import type { Inspection } from './inspection.ts';
import { assertNotStopping, LeaseHolder } from './lease-holder.ts';
import { planRotation, type RotationPlan, type RotationRequest } from './plan.ts';
import { Progress } from './progress.ts';
import { assertReplicasHoldKeys } from './replica-check.ts';
import { type RotationContext, RotationRun } from './run.ts';

export interface DryRun extends Inspection {
  readonly fromKeyId: string;
  readonly toKeyId: string;
}

export interface RunningRotation {
  readonly id: string;
  readonly progress: () => RotationProgress;
  /** Settles when the rotation has ended; rejects with the reason if it did not complete. */
  readonly done: Promise<RotationRecord>;
}

export interface DryRunWatch {
  /** Updated with the progress, if the dry run is on the calling thread. */
  readonly progress?: Progress;
  /** Aborted when nobody waits for the result: a dry run on another thread then ends. */
  readonly signal?: AbortSignal;
}

/** Runs rotations, on this thread or on another. */
export interface Rotator {
  /** The rotation that this process runs, or null. */
  readonly running: RunningRotation | null;
  /** Runs the gate alone: takes no lease and changes nothing. Throws what {@link start} would. */
  dryRun(request: RotationRequest, watch?: DryRunWatch): Promise<DryRun>;
  /**
   * Begins a rotation, or resumes the unfinished one. Throws ValidationError, ConfigurationError, or RotationInProgressError if
   * another one is running. Later failures reject `done`.
   */
  start(request: RotationRequest): Promise<RunningRotation>;
  /** Stops a running rotation at its next step and records it as interrupted; the same call finishes it. */
  close(): Promise<void>;
}

export class RotationEngine implements Rotator {
  readonly #context: RotationContext;
  readonly #stop = new AbortController();
  #running: RunningRotation | null = null;

  constructor(context: RotationContext) {
    this.#context = context;
  }

  get running(): RunningRotation | null {
    return this.#running;
  }

  async dryRun(request: RotationRequest, { progress = new Progress() }: DryRunWatch = {}): Promise<DryRun> {
    const { database, tables, keyring, coverage } = this.#context;
    const plan = await this.#plan(request, await isMigrated(database));
    try {
      const workers = this.#context.startWorkers(plan, keyring);
      const assertGoesOn = (): void => assertNotStopping(this.#stop.signal);
      const work = { tables, coverage, workers, progress, assertGoesOn };
      const report = await openAllRows(work).finally(() => workers.close());
      assertPassed(report);
      return { ...report, fromKeyId: plan.fromKeyId, toKeyId: plan.to.id };
    } catch (error) {
      throw afterSwitch(error, plan);
    }
  }

  async start(request: RotationRequest): Promise<RunningRotation> {
    const { journal, auditKeys } = this.#context;
    await auditKeys.refresh();
    try {
      return await this.#start(request);
    } catch (error) {
      await journal.refused(request.actor ?? vaultActor, 'rotation.start', error);
      throw error;
    }
  }

  async #start(request: RotationRequest): Promise<RunningRotation> {
    const { rotations, journal } = this.#context;
    const plan = await this.#plan(request, true);
    await assertReplicasHoldKeys(this.#context.replicas, plan);
    const id = plan.unfinished?.id ?? randomUUID();
    const lease = await journal.recorded(plan.actor, startOf(plan, id), (record) =>
      rotations.begin({ ...plan, id, toKeyId: plan.to.id }, randomUUID(), record),
    );
    if (lease === null) throw await inProgressError(rotations);
    const progress = new Progress();
    const holder = new LeaseHolder(rotations, lease, progress, this.#stop.signal);
    // The previous owner of the lease may have switched since the plan was made.
    const present = lease.isSwitched ? { ...plan, isSwitched: true, activeKeyId: plan.to.id } : plan;
    const run = new RotationRun(this.#context, present, holder, progress);
    const done = run.finish().finally(() => {
      if (this.#running === running) this.#running = null;
    });
    const running = { id, progress: () => progress.report(), done };
    done.catch(() => undefined);
    this.#running = running;
    return running;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running?.done.catch(() => undefined);
  }

  #plan(request: RotationRequest, hasRecords: boolean): Promise<RotationPlan> {
    const { tables, coverage, masterKeys, rotations, keyring } = this.#context;
    const records = hasRecords ? { masterKeys, rotations } : null;
    return planRotation({ tables, tableNames: coverage.encryptedTables, records, keyring }, request);
  }
}

function startOf(plan: RotationPlan, id: string): AuditEvent {
  const { fromKeyId, to, upgradeFormat, isForced, skippedRows, unfinished } = plan;
  const keys = { rotation_id: id, from_key_id: fromKeyId, to_key_id: to.id };
  const choices = { upgrade_format: upgradeFormat, forced: isForced, skipped: skippedRows.length, resumed: unfinished !== null };
  return { act: 'rotation.start', outcome: 'done', details: { ...keys, ...choices } };
}
