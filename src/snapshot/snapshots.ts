/** The snapshot operations of the service and the command line, with their audit records. */

import type { Logger } from 'pino';
import type { Actor } from '../audit/event.ts';
import type { AuditJournal } from '../audit/journal.ts';
import type { Keyring } from '../crypto/keyring.ts';
import type { SnapshotFile } from '../store/rotation-record.ts';
import { newSnapshotPath, writeSnapshotTo } from './file.ts';
import { assertMode, type RestoreMode, type RestoreResult } from './restore.ts';
import { Spool } from './spool.ts';
import { assemble, type Snapshot } from './take.ts';
import type { SnapshotWork } from './threads.ts';

export interface SnapshotsContext {
  readonly work: SnapshotWork;
  readonly journal: AuditJournal;
  readonly keyring: Keyring;
  /** Where the state before a replacement is kept, or null. */
  readonly snapshotDir: string | null;
  readonly logger: Pick<Logger, 'info' | 'warn'>;
}

export class Snapshots {
  readonly #context: SnapshotsContext;

  constructor(context: SnapshotsContext) {
    this.#context = context;
  }

  /**
   * Takes a snapshot, records it in the audit, and leaves closing it to the caller. `signal` is aborted when nobody waits for it
   * any more. Throws ConfigurationError or StorageUnavailableError.
   */
  async take(actor: Actor, signal?: AbortSignal): Promise<Snapshot> {
    const { work, journal, keyring } = this.#context;
    const taken: Spool[] = [];
    const take = async (): Promise<Snapshot> => {
      const rows = await work.take(signal);
      taken.push(rows.spool);
      return assemble(rows, keyring);
    };
    try {
      return await journal.acted(actor, 'snapshot.take', take, ({ header }) => ({
        rows: header.tables.reduce((sum, { rows }) => sum + rows, 0),
        key_ids: header.key_ids,
      }));
    } catch (error) {
      for (const spool of taken) await spool.close();
      throw error;
    }
  }

  /** Takes a snapshot into a new file in `folder`, synced to disk, as a rotation does first. Throws ConfigurationError. */
  async writeSnapshotFile(actor: Actor, folder: string): Promise<SnapshotFile> {
    const file = await writeSnapshotTo(newSnapshotPath(folder), await this.take(actor));
    this.#context.logger.info({ path: file.path, sha256: file.sha256 }, 'snapshot written');
    return file;
  }

  /** Throws ValidationError if the mode cannot be used at all; call before a snapshot is sent. */
  assertMode(mode: RestoreMode): void {
    assertMode(this.#context, mode);
  }

  /**
   * Restores, and records it in the audit, even if refused. `signal` is aborted when nobody waits for it any more: unless the
   * last transaction has begun, nothing is written. Throws PayloadTooLargeError, or what {@link restoreSnapshot} throws.
   */
  async restore(
    actor: Actor,
    source: AsyncIterable<Uint8Array>,
    mode: RestoreMode,
    maxBytes: number,
    signal?: AbortSignal,
  ): Promise<RestoreResult> {
    const { work, journal, logger } = this.#context;
    try {
      const result = await work.restore(actor, await Spool.from(source, maxBytes), mode, signal);
      const { restored, kept, left, before } = result;
      logger.info({ mode, restored, kept, path: before?.path, sha256: before?.sha256 }, 'snapshot restored');
      if (left > 0)
        logger.warn({ left }, 'rows that do not open were left: a master key that is not in the keyring may open them');
      return result;
    } catch (error) {
      await journal.refused(actor, 'snapshot.restore', error, { mode });
      throw error;
    }
  }

  /** Ends the operations in flight at their next row. */
  async close(): Promise<void> {
    await this.#context.work.close();
  }
}
