/** The vault's state as read by a scrape, at bounded cost: a few single rows, and the row counts of the latest survey. */

import type { Keyring } from '../crypto/keyring.ts';
import { labelOfKey } from '../crypto/master-key.ts';
import { StorageUnavailableError, VaultError } from '../errors.ts';
import type { LatestSurvey } from '../keys/latest-survey.ts';
import type { ReadinessCheck } from '../keys/readiness.ts';
import { ageSecondsOf, isRotationDue, stateOf } from '../keys/report.ts';
import { maxSeals, type SealMeter } from '../keys/seal-meter.ts';
import type { Database } from '../store/database.ts';
import type { MasterKeyStore } from '../store/master-keys.ts';
import { isRunning, rotationStates } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import type { VaultMetrics } from './vault-metrics.ts';

export interface StateSource {
  readonly readiness: ReadinessCheck;
  readonly latestSurvey: LatestSurvey;
  readonly masterKeys: MasterKeyStore;
  readonly keyring: Keyring;
  readonly rotations: RotationStore;
  readonly seals: SealMeter;
  readonly database: Pick<Database, 'counters'>;
  readonly rotationDueDays: number;
}

export class StateMetrics {
  readonly #metrics: VaultMetrics;
  readonly #source: StateSource;
  readonly #gauges: ReturnType<typeof defineGauges>;
  #refreshing: Promise<void> | null = null;

  constructor(metrics: VaultMetrics, source: StateSource) {
    this.#metrics = metrics;
    this.#source = source;
    this.#gauges = defineGauges(metrics);
    const { database } = source;
    metrics.totalOf('storage_retries_total', 'Attempts on the database that were made again.', () => database.counters.retries);
    metrics.totalOf(
      'storage_failures_total',
      'Database operations that failed for good or were given up.',
      () => database.counters.failures,
    );
    const checkpointFailures = (): number => database.counters.checkpointFailures;
    metrics.totalOf('checkpoint_failures_total', 'Checkpoints of the write-ahead log that failed.', checkpointFailures);
  }

  /** All metrics as text. If the database does not answer, its values stay as they were, and `ready` is 0. */
  async scrape(): Promise<string> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = null;
    });
    await this.#refreshing;
    return this.#metrics.registry.metrics();
  }

  async #refresh(): Promise<void> {
    try {
      await this.#readReadiness();
      await this.#readKeys();
      await this.#readRotation();
    } catch (error) {
      if (!(error instanceof VaultError)) throw error;
    }
  }

  /** Throws StorageUnavailableError: the reads that follow would wait for the database in vain. */
  async #readReadiness(): Promise<void> {
    this.#gauges.ready.set(0);
    try {
      await this.#source.readiness.assertReady();
      this.#gauges.ready.set(1);
    } catch (error) {
      if (!(error instanceof VaultError) || error instanceof StorageUnavailableError) throw error;
    }
  }

  /** Two passphrases share one label: their counts are added up, and the greater age is shown. */
  async #readKeys(): Promise<void> {
    const { masterKeys, keyring, seals, rotationDueDays, latestSurvey } = this.#source;
    const records = await masterKeys.all();
    const sealed = await masterKeys.seals();
    const survey = await latestSurvey.get();
    const { age, due, seals: sealsGauge, rows, rowsUnopened } = this.#gauges;
    for (const gauge of [age, due, sealsGauge, rows]) gauge.reset();
    const ages = new Map<string, number>();
    for (const record of records) {
      const { keyId, isPassphrase } = record;
      const key_id = labelOfKey(keyId, isPassphrase);
      const state = stateOf(record, keyring);
      ages.set(`${key_id} ${state}`, Math.max(ageSecondsOf(record), ages.get(`${key_id} ${state}`) ?? 0));
      age.set({ key_id, state }, ages.get(`${key_id} ${state}`) ?? 0);
      due.inc({ key_id }, isRotationDue(record, rotationDueDays) ? 1 : 0);
      sealsGauge.inc({ key_id }, (sealed.get(keyId) ?? 0) + seals.pending(keyId));
      // The rows under a key that is not in the keyring are unknown.
      if (survey !== null && keyring.get(keyId) !== undefined) rows.inc({ key_id }, survey.rowsByKeyId.get(keyId) ?? 0);
    }
    // Absent, rather than 0, until the rows have been counted.
    if (survey === null) rowsUnopened.remove();
    else rowsUnopened.set(survey.rowsFailed);
  }

  async #readRotation(): Promise<void> {
    const { rotations } = this.#source;
    const unfinished = await rotations.findUnfinished();
    const shown = unfinished ?? (await rotations.findLastFinished());
    const { rotationState, rotationRunning, rotationDone, rotationTotal } = this.#gauges;
    for (const state of rotationStates) rotationState.set({ state }, shown?.state === state ? 1 : 0);
    rotationRunning.set(unfinished !== null && isRunning(unfinished) ? 1 : 0);
    rotationDone.set(unfinished?.progress?.rowsDone ?? 0);
    rotationTotal.set(unfinished?.progress?.rowsTotal ?? 0);
  }
}

function defineGauges(metrics: VaultMetrics) {
  metrics.gauge('master_key_seals_limit', 'How often one key may seal with random IVs.').set(maxSeals);
  return {
    ready: metrics.gauge('ready', '1 while GET /ready answers 200.'),
    rows: metrics.gauge('rows', 'Rows of the covered tables by the key that opens them, as last counted.', ['key_id']),
    rowsUnopened: metrics.gauge('rows_unopened', 'Rows of the covered tables that no key of the keyring opens, as last counted.'),
    age: metrics.gauge('master_key_age_seconds', 'Time since a key became active, or was first seen.', ['key_id', 'state']),
    due: metrics.gauge('master_key_rotation_due', '1 where the active key is older than VAULT_ROTATION_DUE_DAYS.', ['key_id']),
    seals: metrics.gauge('master_key_seals', 'How often a key has sealed, by all processes on the database.', ['key_id']),
    rotationState: metrics.gauge('rotation_state', '1 for the state of the unfinished rotation, or else of the last.', ['state']),
    rotationRunning: metrics.gauge('rotation_running', '1 while a process holds the lease of a rotation.'),
    rotationDone: metrics.gauge('rotation_rows_done', 'Rows done in the present phase of the unfinished rotation.'),
    rotationTotal: metrics.gauge('rotation_rows_total', 'Rows to do in the present phase of the unfinished rotation.'),
  };
}
