/** Who takes snapshots and puts them back: this thread. Both touch every row, so that the service has {@link SnapshotThreads} for it. */

import type { Actor } from '../audit/event.ts';
import { type RestoreContext, type RestoreMode, type RestoreResult, restoreSnapshot } from './restore.ts';
import type { Spool } from './spool.ts';
import { type TakenRows, takeSnapshot } from './take.ts';

export interface SnapshotWork {
  /** As {@link takeSnapshot}. `signal` says that nobody waits. */
  take(signal?: AbortSignal): Promise<TakenRows>;
  /** As {@link restoreSnapshot}. The spool is gone afterwards. `signal` says that nobody waits: then nothing more is written. */
  restore(actor: Actor, spool: Spool, mode: RestoreMode, signal?: AbortSignal): Promise<RestoreResult>;
  /** Ends what is under way at its next row, with nothing written; what has come to its last transaction still commits. */
  close(): Promise<void>;
}

export function workOnSnapshotsHere(context: RestoreContext): SnapshotWork {
  return {
    take: () => takeSnapshot(context),
    restore: (actor, spool, mode) => restoreSnapshot(context, actor, spool, mode).finally(() => spool.close()),
    close: async () => undefined,
  };
}
