/** The entry of a rotation's thread: builds an engine with its own database connection, and does the one task given to it. */

import type { Logger } from 'pino';
import { Keyring } from '../crypto/keyring.ts';
import type { DryRun, RotationEngine } from '../rotation/engine.ts';
import type { RotationNote, RotationTask } from '../rotation/thread.ts';
import { answerRequests } from '../runtime/thread.ts';
import { createThrottle } from '../runtime/throttle.ts';
import { Database } from '../store/database.ts';
import type { RotationRecord } from '../store/rotation-record.ts';
import { buildEngine, buildStores } from '../workers.ts';

const progressIntervalMs = 200;

type Tell = (note: RotationNote) => void;

answerRequests<RotationTask, DryRun | RotationRecord, RotationNote>(
  async ({ settings, request, isDryRun }, { stopped, tell }) => {
    const database = new Database(settings.database);
    try {
      const onSwitched = (): void => tell({ kind: 'switched' });
      const keyring = new Keyring(settings.keys);
      const stores = buildStores(database, keyring);
      const log = forwardingLogger(tell);
      const engine = buildEngine({ ...settings, keyring }, stores, log, onSwitched, 'background', createThrottle(stopped));
      stopped.addEventListener('abort', () => void engine.close());
      return isDryRun ? await engine.dryRun(request) : await rotate(engine, request, tell);
    } finally {
      await database.close();
    }
  },
);

async function rotate(engine: RotationEngine, request: RotationTask['request'], tell: Tell): Promise<RotationRecord> {
  const { id, progress, done } = await engine.start(request);
  tell({ kind: 'started', id });
  const timer = setInterval(() => tell({ kind: 'progress', progress: progress() }), progressIntervalMs);
  try {
    return await done;
  } finally {
    clearInterval(timer);
  }
}

/** Forwards the engine's log lines to the main thread, which owns the only log of the process. */
function forwardingLogger(tell: Tell): Pick<Logger, 'info' | 'warn' | 'error'> {
  const forward =
    (level: 'info' | 'warn' | 'error') =>
    (fields: object, message: string): void =>
      tell({ kind: 'log', level, fields, message });
  return { info: forward('info'), warn: forward('warn'), error: forward('error') } as Pick<Logger, 'info' | 'warn' | 'error'>;
}
