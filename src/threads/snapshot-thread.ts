/** The entry of a snapshot's thread: takes or restores one snapshot over its own database connection. */

import { Keyring } from '../crypto/keyring.ts';
import { answerRequests } from '../runtime/thread.ts';
import { createThrottle } from '../runtime/throttle.ts';
import type { RestoreResult } from '../snapshot/restore.ts';
import { Spool } from '../snapshot/spool.ts';
import { type SnapshotNote, type SnapshotTask, type TakenFile, workOnSnapshotsHere } from '../snapshot/threads.ts';
import { Database } from '../store/database.ts';
import { buildStores } from '../workers.ts';

answerRequests<SnapshotTask, TakenFile | RestoreResult, SnapshotNote>(
  async ({ settings, act }, { stopped, tell }) => {
    const database = new Database(settings.database);
    try {
      const keyring = new Keyring(settings.keys);
      const stores = buildStores(database, keyring);
      await stores.auditKeys.refresh();
      const onSwitched = (): void => tell('switched');
      // A restore is urgent, and does not rest.
      const throttle = act.kind === 'take' ? createThrottle(stopped) : () => stopped.throwIfAborted();
      const work = workOnSnapshotsHere({ ...settings, ...stores, keyring, onSwitched, throttle });
      if (act.kind === 'restore') return await work.restore(act.actor, new Spool(act.file), act.mode);
      const { header, spool } = await work.take();
      return { header, file: spool.file };
    } finally {
      await database.close();
    }
  },
  (result) => ('file' in result ? [result.file] : []),
);
