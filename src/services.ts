/** The composition root: builds everything, once, from the configuration, and is the only place that knows who uses what. */

import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { Anchors } from './audit/anchors.ts';
import type { Actor } from './audit/event.ts';
import { AuditLog } from './audit/log.ts';
import { AuditSink } from './audit/sink.ts';
import type { AuditSettings, CoreConfig } from './config.ts';
import { ActiveKey } from './keys/active-key.ts';
import { inspectCoverage } from './keys/coverage.ts';
import { Heartbeat } from './keys/heartbeat.ts';
import { LatestSurvey } from './keys/latest-survey.ts';
import { ReadinessCheck } from './keys/readiness.ts';
import { reportMasterKeys } from './keys/report.ts';
import { SealMeter } from './keys/seal-meter.ts';
import type { Survey } from './keys/survey.ts';
import { Lifecycle } from './lifecycle.ts';
import { Resumption } from './rotation/resumption.ts';
import { Snapshots } from './snapshot/snapshots.ts';
import { ApiKeyStore } from './store/api-keys.ts';
import { Database } from './store/database.ts';
import { isMigrated } from './store/migrations.ts';
import { ApiKeys } from './vault/api-keys.ts';
import { unobserved, type VaultObserver } from './vault/observer.ts';
import { StatelessCipher } from './vault/stateless.ts';
import { UseRecorder } from './vault/use-recorder.ts';
import { buildStores, buildWorkers, type RotationPlace } from './workers.ts';

export type Services = ReturnType<typeof buildServices>;

interface ServicesOptions {
  /** By default the one that the configuration names. */
  readonly database?: Database;
  readonly place?: RotationPlace;
  readonly observer?: VaultObserver;
}

/** Opens the database and changes nothing in it. Throws ConfigurationError if it cannot be opened at all. */
export function buildServices(
  config: CoreConfig & { readonly audit?: AuditSettings },
  logger: Logger,
  { database = new Database(config.database), place = 'here', observer = unobserved }: ServicesOptions = {},
) {
  const { keyring, coverage, rotationDueDays, requireFormat2 } = config;
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
    latestSurvey.outdate();
    void auditKeys.refresh();
  };
  const { rotator, surveyor, snapshotWork, textWorkers } = buildWorkers(config, stores, logger, onSwitched, place);
  const latestSurvey = new LatestSurvey(surveyor);
  const resumption = new Resumption(rotator, rotations, keyring, logger);
  const snapshots = new Snapshots({ work: snapshotWork, journal, keyring, snapshotDir: config.snapshotDir, logger });
  const notes = [rowUses, statelessUses, seals];
  const running = { sink, anchors, heartbeat, resumption, rotator, surveyor, snapshots, textWorkers, notes };
  const lifecycle = new Lifecycle({ config, logger, stores, ...running });
  const readiness = new ReadinessCheck({
    ...stores,
    coverage,
    keyring,
    latestSurvey,
    requireFormat2,
    isPrepared: () => lifecycle.isPrepared,
    isAuditFailing: () => log.isFailing,
  });

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
    latestSurvey,
    journal,
    auditStore,
    /** Whether the vault has ever served this database. */
    isMigrated: () => isMigrated(database),
    /** Tables with encrypted rows that no setting names. */
    uncoveredTables: async () => (await inspectCoverage(stores.tables, coverage, 1)).uncovered.map(({ table }) => table),
    /** Opens every row; recorded in the audit if an actor is given. */
    verify: (actor?: Actor) => {
      const toDetails = ({ rowsScanned, rowsFailed }: Survey) => ({ rows_scanned: rowsScanned, rows_failed: rowsFailed });
      return actor === undefined ? surveyor.survey() : journal.acted(actor, 'rows.verify', () => surveyor.survey(), toDetails);
    },
    /** Begins a new file of the audit log if the old one was moved away. Throws ConfigurationError. */
    reopenAuditLog: async () => sink?.open(),
    keyring,
    reportMasterKeys: () => reportMasterKeys({ ...stores, coverage, keyring, surveyor, rotationDueDays }),
    /** As {@link Database.checkpoint}; `close` does it too. */
    checkpoint: () => database.checkpoint(),
    prepare: () => lifecycle.prepare(),
    migrate: () => lifecycle.migrate(),
    interrupt: () => lifecycle.interrupt(),
    close: () => lifecycle.close(),
  };
}

function buildSink({ log }: AuditSettings, logger: Logger): AuditSink {
  return new AuditSink(log, (error) => {
    const code = error instanceof Error && 'code' in error ? error.code : 'no answer';
    logger.error({ code }, 'the audit log takes no records: no key is opened until it does');
  });
}
