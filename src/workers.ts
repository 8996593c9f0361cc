/** Builds everything that works on all rows, or on many texts: on the calling thread, or on threads of its own. */

import { availableParallelism } from 'node:os';
import type { Logger } from 'pino';
import { AuditJournal } from './audit/journal.ts';
import { AuditKeys } from './audit/keys.ts';
import type { CoreConfig, ThreadSettings } from './config.ts';
import type { Keyring } from './crypto/keyring.ts';
import { type Surveyor, SurveyThreads, surveyHere } from './keys/surveyor.ts';
import { RotationEngine, type Rotator } from './rotation/engine.ts';
import { type StartPageWorkers, workHere, workOnThreads } from './rotation/page-workers.ts';
import { RotationThreads } from './rotation/thread.ts';
import { type Throttle, unthrottled } from './runtime/throttle.ts';
import { Snapshots } from './snapshot/snapshots.ts';
import { SnapshotThreads, type SnapshotWork, workOnSnapshotsHere } from './snapshot/threads.ts';
import { AuditStore } from './store/audit.ts';
import type { Database } from './store/database.ts';
import { EncryptedTables } from './store/encrypted-tables.ts';
import { MasterKeyStore } from './store/master-keys.ts';
import { ReplicaStore } from './store/replicas.ts';
import { RestoreStore } from './store/restores.ts';
import { RotationStore } from './store/rotations.ts';
import { SnapshotRows } from './store/snapshot-rows.ts';
import { TextThread, type TextWorkers, workOnTextsHere } from './vault/text-workers.ts';

/**
 * Where rotations run: on the calling thread; on it with other threads that open and seal, as in a command, which has the machine
 * to itself; or on a thread of their own, as in the service, where requests come first.
 */
export type RotationPlace = EnginePlace | 'threads';

/** Where an engine has rows opened and sealed: on its own thread, on as many threads as help, or on one that rests in between. */
type EnginePlace = 'here' | 'all_cores' | 'background';

/** More threads would be idle: reading and writing, on a single thread, then takes longer than opening and sealing. */
const maxPageThreads = 2;

export type Stores = ReturnType<typeof buildStores>;

/** The stores used by work on all rows, over one connection. */
export function buildStores(database: Database, keyring: Keyring) {
  const masterKeys = new MasterKeyStore(database);
  const auditStore = new AuditStore(database);
  const auditKeys = new AuditKeys(keyring, () => masterKeys.activeKeyId());
  return {
    database,
    tables: new EncryptedTables(database),
    rows: new SnapshotRows(database),
    restores: new RestoreStore(database),
    masterKeys,
    rotations: new RotationStore(database),
    replicas: new ReplicaStore(database),
    auditStore,
    auditKeys,
    journal: new AuditJournal(auditStore, auditKeys),
  };
}

type EngineSettings = Pick<CoreConfig, 'keyring' | 'coverage' | 'atomicRows' | 'snapshotDir'>;

export function buildEngine(
  settings: EngineSettings,
  stores: Stores,
  logger: Pick<Logger, 'info' | 'warn' | 'error'>,
  onSwitched: () => void,
  place: EnginePlace = 'here',
  throttle: Throttle = unthrottled,
): RotationEngine {
  const { keyring, coverage, atomicRows, snapshotDir } = settings;
  const work = workOnSnapshotsHere({ ...settings, ...stores, onSwitched, throttle });
  const snapshots = new Snapshots({ ...stores, work, keyring, snapshotDir, logger });
  return new RotationEngine({
    ...stores,
    keyring,
    coverage,
    atomicRows,
    logger,
    startWorkers: pageWorkersAt(place),
    writeSnapshot: snapshotDir === null ? null : (actor) => snapshots.writeSnapshotFile(actor, snapshotDir),
    onSwitched,
  });
}

function pageWorkersAt(place: EnginePlace): StartPageWorkers {
  const entry = new URL('./threads/page-thread.js', import.meta.url);
  const threads = Math.min(availableParallelism(), maxPageThreads);
  if (place === 'background') return workOnThreads(entry, 1, true);
  return place === 'here' || threads === 1 ? workHere : workOnThreads(entry, threads);
}

interface Workers {
  readonly rotator: Rotator;
  readonly surveyor: Surveyor;
  readonly snapshotWork: SnapshotWork;
  readonly textWorkers: TextWorkers;
}

export function buildWorkers(
  config: CoreConfig,
  stores: Stores,
  logger: Logger,
  onSwitched: () => void,
  place: RotationPlace,
): Workers {
  if (place === 'threads') return buildThreads(config, stores, logger, onSwitched);
  const { keyring, coverage } = config;
  return {
    rotator: buildEngine(config, stores, logger, onSwitched, place),
    surveyor: surveyHere(stores.tables, coverage, keyring),
    snapshotWork: workOnSnapshotsHere({ ...config, ...stores, onSwitched, throttle: unthrottled }),
    textWorkers: workOnTextsHere(keyring),
  };
}

function buildThreads(config: CoreConfig, stores: Stores, logger: Logger, onSwitched: () => void): Workers {
  const { keyring, ...others } = { ...config, database: stores.database.location };
  const settings: ThreadSettings = { ...others, keys: keyring.given };
  const entry = (name: string): URL => new URL(`./threads/${name}-thread.js`, import.meta.url);
  const onDeathOf = (thread: string) => (error: unknown) =>
    logger.error({ err: error }, `the thread that ${thread} has died: its work is done without it`);
  return {
    rotator: new RotationThreads({ entry: entry('rotation'), settings, logger, onSwitched }),
    surveyor: new SurveyThreads({
      ...others,
      keyring,
      entry: entry('survey'),
      tables: stores.tables,
      onDeath: onDeathOf('opens all rows'),
    }),
    snapshotWork: new SnapshotThreads({ entry: entry('snapshot'), settings, onSwitched }),
    textWorkers: new TextThread(entry('text'), keyring, onDeathOf('works on many texts')),
  };
}
