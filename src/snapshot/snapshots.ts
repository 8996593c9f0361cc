/** What the service and the command line do with snapshots. */

import type { Logger } from 'pino';
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

  /** To be closed by the caller. Throws ConfigurationError or StorageUnavailableError. */
  take(options?: TakeOptions): Promise<Snapshot> {
    return takeSnapshot(this.#context, options);
  }

  /** Takes a snapshot into a new file of a folder, synced to disk: what a rotation does first. Throws ConfigurationError. */
  async writeSnapshotFile(folder: string, options?: TakeOptions): Promise<SnapshotFile> {
    const file = await writeSnapshotTo(newSnapshotPath(folder), await this.take(options));
    this.#context.logger.info({ path: file.path, sha256: file.sha256 }, 'snapshot written');
    return file;
  }

  /** Throws ValidationError where the mode cannot be used at all: to be asked before a snapshot is sent. */
  assertMode(mode: RestoreMode): void {
    assertMode(this.#context, mode);
  }

  /** Throws PayloadTooLargeError, or what {@link restoreSnapshot} throws. */
  async restore(source: AsyncIterable<Uint8Array>, mode: RestoreMode, maxBytes: number): Promise<RestoreResult> {
    const spool = await Spool.from(source, maxBytes);
    try {
      const result = await restoreSnapshot(this.#context, spool, mode);
      const { restored, kept, before } = result;
      this.#context.logger.info({ mode, restored, kept, path: before?.path, sha256: before?.sha256 }, 'snapshot restored');
      return result;
    } finally {
      await spool.close();
    }
  }
}
