/** Builds everything, once, from the configuration: the one place that knows who uses what. */

import { availableParallelism, hostname } from 'node:os';
import type { Logger } from 'pino';
import { Anchors } from './audit/anchors.ts';
import type { Actor } from './audit/event.ts';
import { AuditJournal } from './audit/journal.ts';
import { AuditKeys } from './audit/keys.ts';
import { AuditLog } from './audit/log.ts';
import { AuditSink } from './audit/sink.ts';
import type { AuditSettings, CoreConfig, ThreadSettings } from './config.ts';
import type { Keyring } from './crypto/keyring.ts';
import { ActiveKey } from './keys/active-key.ts';
import { adoptActiveKey } from './keys/adoption.ts';
import { watchAge } from './keys/age-watch.ts';
import { inspectCoverage } from './keys/coverage.ts';
import { Heartbeat } from './keys/heartbeat.ts';
import { ReadinessCheck } from './keys/readiness.ts';
import { reportMasterKeys } from './keys/report.ts';
import { SealMeter } from './keys/seal-meter.ts';
import type { Survey } from './keys/survey.ts';
import { type Surveyor, SurveyThreads, surveyHere } from './keys/surveyor.ts';
import { RotationEngine, type Rotator } from './rotation/engine.ts';
import { type StartPageWorkers, workHere, workOnThreads } from './rotation/page-workers.ts';
import { Resumption } from './rotation/resumption.ts';
import { RotationThreads } from './rotation/thread.ts';
import type { Repetition } from './runtime/repetition.ts';
import { type Throttle, unthrottled } from './runtime/throttle.ts';
import { Snapshots } from './snapshot/snapshots.ts';
import { SnapshotThreads, type SnapshotWork, workOnSnapshotsHere } from './snapshot/threads.ts';
import { ApiKeyStore } from './store/api-keys.ts';
import { AuditStore } from './store/audit.ts';
import { Database } from './store/database.ts';
import { EncryptedTables } from './store/encrypted-tables.ts';
import { MasterKeyStore } from './store/master-keys.ts';
import { isMigrated, migrate } from './store/migrations.ts';
import { ReplicaStore } from './store/replicas.ts';
import { RestoreStore } from './store/restores.ts';
import { RotationStore } from './store/rotations.ts';
import { SnapshotRows } from './store/snapshot-rows.ts';
import { ApiKeys } from './vault/api-keys.ts';
import { unobserved, type VaultObserver } from './vault/observer.ts';
import { StatelessCipher } from './vault/stateless.ts';
import { TextThread, type TextWorkers, workOnTextsHere } from './vault/text-workers.ts';
import { UseRecorder } from './vault/use-recorder.ts';

/**
 * Where rotations run: on this thread; on this thread with others that open and seal, as in a command, which has the machine to
 * itself; or on a thread of their own, as in the service, whose requests come first.
 */
export type RotationPlace = EnginePlace | 'threads';

/** Where an engine has rows opened and sealed: on its own thread, on as many as help, or on one that rests in between. */
type EnginePlace = 'here' | 'all_cores' | 'background';

/** More have nothing to do: reading and writing, which one thread does, then takes longer than what these do. */
const maxPageThreads = 2;

export type Services = ReturnType<typeof buildServices>;

/** Opens the database and changes nothing in it. Throws ConfigurationError where it cannot be opened at all. */
export function buildServices(
  config: CoreConfig & { readonly audit?: AuditSettings },
  logger: Logger,
  database = new Database(config.database),
  place: RotationPlace = 'here',
  observer: VaultObserver = unobserved,
) {
  const { keyring, coverage, rotationDueDays, requireFormat2 } = config;
  const threadConfig = { ...config, database: database.location };
  const stores = buildStores(database, keyring);
  const { masterKeys, rotations, replicas, auditStore, auditKeys, journal } = stores;
  const heartbeat = new Heartbeat(replicas, keyring);
  const apiKeyStore = new ApiKeyStore(database);
  const activeKey = new ActiveKey(masterKeys, keyring);
  const sink = config.audit === undefined ? null : buildSink(config.audit, logger);
  const log = new AuditLog(sink, auditKeys, () => observer.auditFailed());
  const intervalMs = (config.audit?.anchorSeconds ?? 0) * 1000;
  const details = { host: hostname(), pid: process.pid };
  const anchors = new Anchors({ log, journal, store: auditStore, keys: auditKeys, intervalMs, details });
  const rowUses = new UseRecorder((usedAt) => apiKeyStore.noteUse(usedAt));
  const statelessUses = new UseRecorder((usedAt) => masterKeys.noteStatelessUse(usedAt));
  const seals = new SealMeter((added) => masterKeys.addSeals(added));
  const onSwitched = (): void => {
    activeKey.forget();
    readiness.outdate();
    void auditKeys.refresh();
  };
  const { rotator, surveyor, snapshotWork, textWorkers } =
    place === 'threads'
      ? workersOnThreads(threadConfig, stores, logger, onSwitched)
      : workersHere(config, stores, logger, onSwitched, place);
  let isPrepared = false;
  const readiness = new ReadinessCheck({
    ...stores,
    coverage,
    keyring,
    surveyor,
    requireFormat2,
    isPrepared: () => isPrepared,
    isAuditFailing: () => log.isFailing,
  });
  const snapshots = new Snapshots({ work: snapshotWork, journal, keyring, snapshotDir: config.snapshotDir, logger });
  let ageWatch: Repetition | null = null;
  const resumption = new Resumption(rotator, rotations, keyring, logger);
  const interrupt = async (): Promise<void> => {
    await Promise.all([rotator.close(), surveyor.close(), snapshots.close()]);
  };
  const prepareSchema = async (): Promise<void> => {
    await database.useWriteAheadLog();
    await migrate(database);
    await auditKeys.refresh();
  };

  return {
    apiKeys: new ApiKeys({
      store: apiKeyStore,
      keyring,
      activeKey,
      uses: rowUses,
      requireFormat2,
      log,
      journal,
      seals,
      observer,
    }),
    stateless: new StatelessCipher({ workers: textWorkers, keyring, activeKey, uses: statelessUses, log, seals, observer }),
    rotator,
    rotations,
    snapshots,
    masterKeys,
    replicas,
    seals,
    database: database as Pick<Database, 'counters'>,
    readiness,
    journal,
    auditStore,
    /** Whether the vault has ever served this database. */
    isMigrated: () => isMigrated(database),
    /** Tables with encrypted rows that the settings name nowhere. */
    uncoveredTables: async () => (await inspectCoverage(stores.tables, coverage, 1)).uncovered.map(({ table }) => table),
    /** Opens every row; on record, where an actor is given. */
    verify: (actor?: Actor) => {
      const toDetails = ({ rowsScanned, rowsFailed }: Survey) => ({ rows_scanned: rowsScanned, rows_failed: rowsFailed });
      return actor === undefined ? surveyor.survey() : journal.acted(actor, 'rows.verify', () => surveyor.survey(), toDetails);
    },
    /** Begins the file of the audit log anew, where it has been moved away. Throws ConfigurationError. */
    reopenAuditLog: async () => sink?.open(),
    keyring,
    reportMasterKeys: () => reportMasterKeys({ ...stores, coverage, keyring, surveyor, rotationDueDays }),
    /**
     * Brings the schema up to date, finds the active key, joins the live replicas, and takes up an unfinished rotation. Throws
     * ConfigurationError, or StorageUnavailableError: then it may be called again.
     */
    prepare: async () => {
      await sink?.open();
      await prepareSchema();
      await adoptActiveKey({ ...stores, coverage, keyring });
      // Best effort: what is left now is deleted by the next restore or start.
      await stores.restores.forgetStale().catch(() => undefined);
      await heartbeat.start();
      if (sink !== null) await anchors.start();
      resumption.start();
      ageWatch ??= watchAge({ masterKeys, rotationDueDays, logger });
      isPrepared = true;
    },
    /** Brings the schema up to date, and nothing else. */
    migrate: prepareSchema,
    /** Ends what may take long: a rotation at its next step, as an interrupted one, a survey, and what is done with snapshots. */
    interrupt,
    /** As {@link Database.checkpoint}; `close` does it too. */
    checkpoint: () => database.checkpoint(),
    close: async () => {
      resumption.stop();
      await ageWatch?.stop();
      await interrupt();
      await textWorkers.close();
      await anchors.stop();
      await sink?.close();
      await heartbeat.stop();
      await Promise.all([rowUses.close(), statelessUses.close(), seals.close()]);
      await database.checkpoint();
      await database.close();
    },
  };
}

export type Stores = ReturnType<typeof buildStores>;

/** Whatever reads and writes the database for work on all rows, over one connection. */
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

function buildSink({ log }: AuditSettings, logger: Logger): AuditSink {
  return new AuditSink(log, (error) => {
    const code = error instanceof Error && 'code' in error ? error.code : 'no answer';
    logger.error({ code }, 'the audit log takes no records: no key is opened until it does');
  });
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
  const work = buildSnapshotWork(settings, stores, onSwitched, throttle);
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

export function buildSnapshotWork(
  { keyring, coverage, snapshotDir }: EngineSettings,
  stores: Stores,
  onSwitched: () => void,
  throttle: Throttle = unthrottled,
): SnapshotWork {
  return workOnSnapshotsHere({ ...stores, keyring, coverage, snapshotDir, onSwitched, throttle });
}

/** Who works on all rows, and on many texts. */
interface Workers {
  readonly rotator: Rotator;
  readonly surveyor: Surveyor;
  readonly snapshotWork: SnapshotWork;
  readonly textWorkers: TextWorkers;
}

function workersHere(config: CoreConfig, stores: Stores, logger: Logger, onSwitched: () => void, place: EnginePlace): Workers {
  const { keyring, coverage } = config;
  return {
    rotator: buildEngine(config, stores, logger, onSwitched, place),
    surveyor: surveyHere(stores.tables, coverage, keyring),
    snapshotWork: buildSnapshotWork(config, stores, onSwitched),
    textWorkers: workOnTextsHere(keyring),
  };
}

function workersOnThreads(config: CoreConfig, { tables }: Stores, logger: Logger, onSwitched: () => void): Workers {
  const { keyring, ...others } = config;
  const settings: ThreadSettings = { ...others, keys: keyring.given };
  const entry = (name: string): URL => new URL(`./threads/${name}-thread.js`, import.meta.url);
  const onDeathOf = (thread: string) => (error: unknown) =>
    logger.error({ err: error }, `the thread that ${thread} has died: its work is done without it`);
  return {
    rotator: new RotationThreads({ entry: entry('rotation'), settings, logger, onSwitched }),
    surveyor: new SurveyThreads({ ...config, entry: entry('survey'), tables, onDeath: onDeathOf('opens all rows') }),
    snapshotWork: new SnapshotThreads({ entry: entry('snapshot'), settings, onSwitched }),
    textWorkers: new TextThread(entry('text'), keyring, onDeathOf('works on many texts')),
  };
}
