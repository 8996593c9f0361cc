/** Starts and stops what runs beside the requests, each in the one order in which nothing is lost and every act is on record. */

import type { Logger } from 'pino';
import type { Anchors } from './audit/anchors.ts';
import type { AuditSink } from './audit/sink.ts';
import type { CoreConfig } from './config.ts';
import { adoptActiveKey } from './keys/adoption.ts';
import { watchAge } from './keys/age-watch.ts';
import type { Heartbeat } from './keys/heartbeat.ts';
import type { Surveyor } from './keys/surveyor.ts';
import type { Rotator } from './rotation/engine.ts';
import type { Resumption } from './rotation/resumption.ts';
import type { Repetition } from './runtime/repetition.ts';
import type { Snapshots } from './snapshot/snapshots.ts';
import { migrate } from './store/migrations.ts';
import type { TextWorkers } from './vault/text-workers.ts';
import type { Stores } from './workers.ts';

export interface LifecycleParts {
  readonly config: Pick<CoreConfig, 'keyring' | 'coverage' | 'rotationDueDays'>;
  readonly logger: Logger;
  readonly stores: Stores;
  /** Null in a command: it returns no plaintext to anybody. */
  readonly sink: AuditSink | null;
  readonly anchors: Anchors;
  readonly heartbeat: Heartbeat;
  readonly resumption: Resumption;
  readonly rotator: Rotator;
  readonly surveyor: Surveyor;
  readonly snapshots: Snapshots;
  readonly textWorkers: TextWorkers;
  /** Flushed from time to time, and a last time when they are closed. */
  readonly notes: readonly { close(): Promise<void> }[];
}

export class Lifecycle {
  readonly #parts: LifecycleParts;
  #ageWatch: Repetition | null = null;
  #isPrepared = false;

  constructor(parts: LifecycleParts) {
    this.#parts = parts;
  }

  /** Whether {@link prepare} has succeeded. */
  get isPrepared(): boolean {
    return this.#isPrepared;
  }

  /**
   * Brings the schema up to date, finds the active key, registers as a live replica, and resumes an unfinished rotation. Throws
   * ConfigurationError, or StorageUnavailableError, after which it may be called again.
   */
  async prepare(): Promise<void> {
    const { config, logger, stores, sink, anchors, heartbeat, resumption } = this.#parts;
    await sink?.open();
    await this.migrate();
    await adoptActiveKey({ ...stores, coverage: config.coverage, keyring: config.keyring });
    // Best effort: anything left now is deleted by the next restore or start.
    await stores.restores.forgetStale().catch(() => undefined);
    await heartbeat.start();
    if (sink !== null) await anchors.start();
    resumption.start();
    this.#ageWatch ??= watchAge({ masterKeys: stores.masterKeys, rotationDueDays: config.rotationDueDays, logger });
    this.#isPrepared = true;
  }

  /** Brings the schema up to date, and nothing else. */
  async migrate(): Promise<void> {
    const { database, auditKeys } = this.#parts.stores;
    await database.useWriteAheadLog();
    await migrate(database);
    await auditKeys.refresh();
  }

  /** Ends long work: a rotation at its next step, recorded as interrupted, surveys, and snapshot operations. */
  async interrupt(): Promise<void> {
    const { rotator, surveyor, snapshots } = this.#parts;
    await Promise.all([rotator.close(), surveyor.close(), snapshots.close()]);
  }

  /** Ends everything, the database last. To be called once no request is in flight. */
  async close(): Promise<void> {
    const { stores, sink, anchors, heartbeat, resumption, textWorkers, notes } = this.#parts;
    resumption.stop();
    await this.#ageWatch?.stop();
    await this.interrupt();
    await textWorkers.close();
    await anchors.stop();
    await sink?.close();
    await heartbeat.stop();
    await Promise.all(notes.map((each) => each.close()));
    await stores.database.checkpoint();
    await stores.database.close();
  }
}
