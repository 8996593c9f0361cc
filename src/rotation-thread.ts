/** The entry of a rotation's thread: builds an engine with a database connection of its own, and does the one task it was given. */

import { parentPort, workerData } from 'node:worker_threads';
import type { Logger } from 'pino';
import { Keyring } from './crypto/keyring.ts';
import { Progress } from './rotation/progress.ts';
import { stopMessage, type ThreadMessage, type ThreadOutcome, type ThreadTask, toOutcome } from './rotation/thread.ts';
import { buildEngine, type ThreadSettings } from './services.ts';
import { Database } from './store/database.ts';

const progressIntervalMs = 200;

const { settings, request, isDryRun } = workerData as ThreadTask<ThreadSettings>;
const database = new Database(settings.database);
const engine = buildEngine({ ...settings, keyring: new Keyring(settings.keys) }, forwardingLogger(), database, () =>
  send({ kind: 'switched' }),
);
parentPort?.on('message', (message) => {
  if (message === stopMessage) void engine.close();
});
const outcome = await (isDryRun ? dryRun() : rotate()).catch(toOutcome);
await database.close();
send({ kind: 'ended', outcome });
parentPort?.close();

async function dryRun(): Promise<ThreadOutcome> {
  return { kind: 'dry_run', report: await engine.dryRun(request, new Progress()) };
}

async function rotate(): Promise<ThreadOutcome> {
  const { id, progress, done } = await engine.start(request);
  send({ kind: 'started', id });
  const timer = setInterval(() => send({ kind: 'progress', progress: progress() }), progressIntervalMs);
  try {
    return { kind: 'rotation', rotation: await done };
  } finally {
    clearInterval(timer);
  }
}

function send(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

/** What the engine logs is logged by the main thread, which has the one log of the process. */
function forwardingLogger(): Pick<Logger, 'info' | 'warn' | 'error'> {
  const forward =
    (level: 'info' | 'warn' | 'error') =>
    (fields: object, message: string): void =>
      send({ kind: 'log', level, fields, message });
  return { info: forward('info'), warn: forward('warn'), error: forward('error') } as Pick<Logger, 'info' | 'warn' | 'error'>;
}
