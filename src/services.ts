/** Builds everything, once, from the configuration: the one place that knows who uses what. */

import type { Logger } from 'pino';
import type { CoreConfig } from './config.ts';
import { ActiveKey } from './keys/active-key.ts';
import { adoptActiveKey } from './keys/adoption.ts';
import { Heartbeat } from './keys/heartbeat.ts';
import { ReadinessCheck } from './keys/readiness.ts';
import { type MasterKeyReport, reportMasterKeys } from './keys/report.ts';
import { type Survey, survey } from './keys/survey.ts';
import { RotationEngine } from './rotation/engine.ts';
import { Resumption } from './rotation/resumption.ts';
import { ApiKeyStore } from './store/api-keys.ts';
import { Database } from './store/database.ts';
import { EncryptedTables } from './store/encrypted-tables.ts';
import { MasterKeyStore } from './store/master-keys.ts';
import { isMigrated, migrate } from './store/migrations.ts';
import { ReplicaStore } from './store/replicas.ts';
import { RotationStore } from './store/rotations.ts';
import { ApiKeys } from './vault/api-keys.ts';
import { StatelessCipher } from './vault/stateless.ts';
import { UseRecorder } from './vault/use-recorder.ts';

export interface Services {
  readonly apiKeys: ApiKeys;
  readonly stateless: StatelessCipher;
  readonly engine: RotationEngine;
  readonly rotations: RotationStore;
  readonly masterKeys: MasterKeyStore;
  readonly replicas: ReplicaStore;
  /** Whether the vault has ever served this database. */
  readonly isMigrated: () => Promise<boolean>;
  readonly readiness: ReadinessCheck;
  readonly verify: () => Promise<Survey>;
  readonly reportMasterKeys: () => Promise<{ activeKeyId: string | null; keys: MasterKeyReport[] }>;
  /** Brings the schema up to date, finds the active key, joins the live replicas, and takes up an unfinished rotation. Throws ConfigurationError or StorageUnavailableError. */
  readonly prepare: () => Promise<void>;
  /** As {@link prepare}, but leaves the active key of a new table to whoever asks. */
  readonly migrate: () => Promise<void>;
  readonly close: () => Promise<void>;
}

/** Opens the database and changes nothing in it. Throws ConfigurationError where it cannot be opened at all. */
export function buildServices(config: CoreConfig, logger: Logger, database = new Database(config.database)): Services {
  const { keyring, coverage, atomicRows, rotationDueDays, requireFormat2 } = config;
  const tables = new EncryptedTables(database);
  const masterKeys = new MasterKeyStore(database);
  const rotations = new RotationStore(database);
  const replicas = new ReplicaStore(database);
  const heartbeat = new Heartbeat(replicas, keyring);
  const apiKeyStore = new ApiKeyStore(database);
  const activeKey = new ActiveKey(masterKeys, keyring);
  const rowUses = new UseRecorder((usedAt) => apiKeyStore.noteUse(usedAt));
  const statelessUses = new UseRecorder((usedAt) => masterKeys.noteStatelessUse(usedAt));
  const engine = new RotationEngine({
    database,
    tables,
    masterKeys,
    rotations,
    replicas,
    keyring,
    activeKey,
    coverage,
    atomicRows,
    logger,
  });

  const resumption = new Resumption(engine, rotations, logger);
  const prepareSchema = async (): Promise<void> => {
    await database.useWriteAheadLog();
    await migrate(database);
  };

  return {
    apiKeys: new ApiKeys(apiKeyStore, keyring, activeKey, rowUses, requireFormat2),
    stateless: new StatelessCipher(keyring, activeKey, statelessUses),
    engine,
    rotations,
    masterKeys,
    replicas,
    isMigrated: () => isMigrated(database),
    readiness: new ReadinessCheck({ tables, coverage, masterKeys, rotations, keyring, requireFormat2 }),
    verify: () => survey(tables, coverage, keyring),
    reportMasterKeys: () => reportMasterKeys({ tables, coverage, masterKeys, rotations, keyring, rotationDueDays }),
    prepare: async () => {
      await prepareSchema();
      await adoptActiveKey({ tables, coverage, masterKeys, keyring });
      await heartbeat.start();
      resumption.start();
    },
    migrate: prepareSchema,
    close: async () => {
      resumption.stop();
      await engine.close();
      await heartbeat.stop();
      await Promise.all([rowUses.close(), statelessUses.close()]);
      database.close();
    },
  };
}
