/** Renews a rotation's lease while it runs, and tells the rotation to stop once the lease is lost or the process is to end. */

import { StorageUnavailableError } from '../errors.ts';
import { Repetition } from '../runtime/repetition.ts';
import { leaseSeconds } from '../store/rotation-record.ts';
import type { Lease, RotationStore } from '../store/rotations.ts';
import type { Progress } from './progress.ts';

export const renewalIntervalMs = (leaseSeconds * 1000) / 3;

/** Throws StorageUnavailableError once the process is to end. */
export function assertNotStopping(stop: AbortSignal): void {
  if (stop.aborted) throw new StorageUnavailableError('The vault is stopping: run the same again once it is up.');
}

export class LeaseHolder {
  readonly lease: Lease;
  readonly #rotations: RotationStore;
  readonly #progress: Progress;
  readonly #stop: AbortSignal;
  readonly #renewals = new Repetition(renewalIntervalMs, () => this.#renew());
  #isLost = false;

  constructor(rotations: RotationStore, lease: Lease, progress: Progress, stop: AbortSignal) {
    this.#rotations = rotations;
    this.lease = lease;
    this.#progress = progress;
    this.#stop = stop;
  }

  /** Whether another process has taken the lease over, or the rotation was cancelled. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** Throws StorageUnavailableError if the rotation must not continue in this process. */
  assertHeld(): void {
    assertNotStopping(this.#stop);
    if (this.#isLost) throw new StorageUnavailableError('Another process has taken the rotation over.');
  }

  stop(): void {
    void this.#renewals.stop();
  }

  /** A failed renewal is tried again at the next interval; the fencing token decides whether anything may still be written. */
  async #renew(): Promise<void> {
    if (!(await this.#rotations.renew(this.lease, this.#progress.report()))) this.#isLost = true;
  }
}
