/** Finishes, when a replica starts, a rotation that another process has abandoned. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Keyring } from '../crypto/keyring.ts';
import { RotationInProgressError, StorageUnavailableError, VaultError } from '../errors.ts';
import { isRunning, type RotationRecord } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import type { Rotator, RunningRotation } from './engine.ts';
import type { RotationRequest } from './plan.ts';

/** How often to check whether the process that holds the lease is gone. */
const pollMs = 1_000;

export class Resumption {
  readonly #rotator: Rotator;
  readonly #rotations: RotationStore;
  readonly #keyring: Keyring;
  readonly #logger: Logger;
  readonly #stop = new AbortController();

  constructor(rotator: Rotator, rotations: RotationStore, keyring: Keyring, logger: Logger) {
    this.#rotator = rotator;
    this.#rotations = rotations;
    this.#keyring = keyring;
    this.#logger = logger;
  }

  /** Returns at once; the outcome is in the log and in the rotation's record. */
  start(): void {
    this.#resume().catch((error: unknown) => {
      if (this.#stop.signal.aborted) return;
      const reason = error instanceof VaultError ? error.message : 'an unexpected error';
      this.#logger.warn({ reason }, 'the unfinished rotation was not taken up: run it again');
    });
  }

  stop(): void {
    this.#stop.abort();
  }

  async #resume(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      const unfinished = await this.#findLeft();
      if (unfinished === null) return;
      const request = { unfinishedId: unfinished.id };
      // Without the old key the rotation can be finished only if no row needs it, which the dry run checks; otherwise a replica
      // that has the key must finish it.
      if (this.#keyring.get(unfinished.fromKeyId) === undefined) await this.#rotator.dryRun(request, { signal });
      if (signal.aborted) return;
      const running = await this.#tryToStart(request);
      if (running !== null) return void (await running.done);
      await sleep(pollMs, null, { signal, ref: false });
    }
  }

  /** Null if the database did not answer, or another process was first: whoever has the lease then may not live to finish. */
  async #tryToStart(request: RotationRequest): Promise<RunningRotation | null> {
    try {
      const running = await this.#rotator.start(request);
      this.#logger.info({ rotation_id: running.id }, 'taking up an unfinished rotation');
      return running;
    } catch (error) {
      if (!(error instanceof StorageUnavailableError || error instanceof RotationInProgressError)) throw error;
      this.#logger.info({ reason: error.message }, 'an unfinished rotation was not taken up yet');
      return null;
    }
  }

  /**
   * Waits while the lease is held: its owner either ends the rotation or loses the lease. Also waits for a database that does not
   * answer.
   */
  async #findLeft(): Promise<RotationRecord | null> {
    for (;;) {
      const unfinished = await this.#rotations.findUnfinished().catch((error: unknown) => {
        if (error instanceof StorageUnavailableError) return undefined;
        throw error;
      });
      if (unfinished === null || (unfinished !== undefined && !isRunning(unfinished))) return unfinished;
      await sleep(pollMs, null, { signal: this.#stop.signal, ref: false });
    }
  }
}
