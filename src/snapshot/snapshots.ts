/** What the service and the command line do with snapshots. */

import type { Logger } from 'pino';
import type { Actor } from '../audit/event.ts';
import { newSnapshotPath, type SnapshotFile, writeSnapshotTo } from './file.ts';
import { assertMode, type RestoreContext, type RestoreMode, type RestoreResult, restoreSnapshot } from './restore.ts';
import { Spool } from './spool.ts';
import { type Snapshot, type TakeOptions, takeSnapshot } from './take.ts';

export interface SnapshotsContext extends RestoreContext {
  readonly logger: Pick<Logger, 'info'>;
}

export class Snapshots {
  readonly #context: SnapshotsContext;

  constructor(context: SnapshotsContext) {
    this.#context = context;
  }

  /** On record once it is taken; to be closed by the caller. Throws ConfigurationError or StorageUnavailableError. */
  async take(actor: Actor, options?: TakeOptions): Promise<Snapshot> {
    const taken: Snapshot[] = [];
    const take = async (): Promise<Snapshot> => {
      const snapshot = await takeSnapshot(this.#context, options);
      taken.push(snapshot);
      return snapshot;
    };
    try {
      return await this.#context.journal.acted(actor, 'snapshot.take', take, ({ header }) => ({
        rows: header.tables.reduce((sum, { rows }) => sum + rows, 0),
        key_ids: header.key_ids,
      }));
    } catch (error) {
      for (const snapshot of taken) await snapshot.close();
      throw error;
    }
  }

  /** Takes a snapshot into a new file of a folder, synced to disk: what a rotation does first. Throws ConfigurationError. */
  async writeSnapshotFile(actor: Actor, folder: string, options?: TakeOptions): Promise<SnapshotFile> {
    const file = await writeSnapshotTo(newSnapshotPath(folder), await this.take(actor, options));
    this.#context.logger.info({ path: file.path, sha256: file.sha256 }, 'snapshot written');
    return file;
  }

  /** Throws ValidationError where the mode cannot be used at all: to be asked before a snapshot is sent. */
  assertMode(mode: RestoreMode): void {
    assertMode(this.#context, mode);
  }

  /** On record, also where it is refused. Throws PayloadTooLargeError, or what {@link restoreSnapshot} throws. */
  async restore(actor: Actor, source: AsyncIterable<Uint8Array>, mode: RestoreMode, maxBytes: number): Promise<RestoreResult> {
    try {
      return await this.#restore(actor, source, mode, maxBytes);
    } catch (error) {
      await this.#context.journal.refused(actor, 'snapshot.restore', error, { mode });
      throw error;
    }
  }

  async #restore(actor: Actor, source: AsyncIterable<Uint8Array>, mode: RestoreMode, maxBytes: number): Promise<RestoreResult> {
    const spool = await Spool.from(source, maxBytes);
    try {
      const result = await restoreSnapshot(this.#context, actor, spool, mode);
      const { restored, kept, before } = result;
      this.#context.logger.info({ mode, restored, kept, path: before?.path, sha256: before?.sha256 }, 'snapshot restored');
      return result;
    } finally {
      await spool.close();
    }
  }
}
