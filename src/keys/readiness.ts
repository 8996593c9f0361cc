/**
 * Reports whether this process can serve: the database answers, and the keyring holds the keys that it needs. Never names a
 * passphrase.
 */

import type { Keyring } from '../crypto/keyring.ts';
import { ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { withTimeout } from '../runtime/with-timeout.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { MasterKeyStore } from '../store/master-keys.ts';
import { isRunning, type RotationRecord } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import { nameOfKey } from './active-key.ts';
import { type CoverageSettings, inspectCoverage, rowsOf } from './coverage.ts';
import type { LatestSurvey } from './latest-survey.ts';
import { wasActive } from './staged-key.ts';

/** A database that takes longer than this counts as unavailable. */
const answerWithinMs = 1_500;
/** With more rows than this, an answer does not wait for a survey: a later answer has its result. */
const maxRowsWaitedFor = 5_000;

export interface ReadinessContext {
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly masterKeys: MasterKeyStore;
  readonly rotations: RotationStore;
  readonly keyring: Keyring;
  readonly latestSurvey: LatestSurvey;
  readonly requireFormat2: boolean;
  /** Whether the database has been prepared and this replica has registered as live. */
  readonly isPrepared: () => boolean;
  /** Whether the last use of a key could not be recorded. */
  readonly isAuditFailing: () => boolean;
}

export class ReadinessCheck {
  readonly #context: ReadinessContext;
  #check: Promise<string[]> | null = null;

  constructor(context: ReadinessContext) {
    this.#context = context;
  }

  /**
   * Why nothing may be served yet, or null. A rotation checks the keys of registered replicas only, so an unregistered one must
   * not serve.
   */
  get unprepared(): StorageUnavailableError | null {
    if (this.#context.isPrepared()) return null;
    return new StorageUnavailableError('The database was away when the vault started: nothing is served until it is prepared.');
  }

  /**
   * Returns warnings for the operator; concurrent callers, who need no token, share one check. Throws StorageUnavailableError, or
   * ConfigurationError with the reasons.
   */
  async assertReady(): Promise<string[]> {
    const check = this.#check ?? this.#inspect();
    this.#check = check;
    const forget = (): void => {
      if (this.#check === check) this.#check = null;
    };
    check.then(forget, forget);
    return withTimeout(check, answerWithinMs, () => {
      // The next caller starts a new check.
      forget();
      throw new StorageUnavailableError(`The database has not answered within ${answerWithinMs} ms.`);
    });
  }

  async #inspect(): Promise<string[]> {
    const { rotations, masterKeys } = this.#context;
    if (this.unprepared !== null) throw this.unprepared;
    // Concurrently: a server may be far away.
    const [unfinished, activeKeyId, others] = await Promise.all([
      rotations.findUnfinished(),
      masterKeys.activeKeyId(),
      this.#warnings(),
    ]);
    const reasons = await this.#missingKeys(activeKeyId, unfinished);
    const warnings = [...leftRotationWarnings(unfinished), ...others];
    if (reasons.length > 0) throw new ConfigurationError(reasons.join(' '), { reasons, warnings });
    return warnings;
  }

  async #missingKeys(activeKeyId: string | null, unfinished: RotationRecord | null): Promise<string[]> {
    const { masterKeys, keyring } = this.#context;
    if (activeKeyId === null) {
      return [`No key of the keyring opens a row of the database. It has ${this.#keyringNames()}: check PROVARA_MASTER_KEY.`];
    }
    const needed = new Map([[activeKeyId, 'active']]);
    for (const keyId of unfinished === null ? [] : keyIdsNeededBy(unfinished)) {
      if (!needed.has(keyId)) needed.set(keyId, 'being rotated');
    }
    const missing = [...needed].filter(([keyId]) => keyring.get(keyId) === undefined);
    if (missing.length === 0) return [];
    const known = await masterKeys.all();
    return missing.map(
      ([keyId, role]) =>
        `The master key ${nameOfKey(known, keyId)} (${role}) is not in the keyring, which has ${this.#keyringNames()}: ${adviceFor(role)}.`,
    );
  }

  #keyringNames(): string {
    const { keyring } = this.#context;
    const names = keyring.entries.map(({ sources, key }) => `${keyring.labelOf(key.id)} (${sources.join(', ')})`);
    return names.join(', ') || 'no key';
  }

  async #warnings(): Promise<string[]> {
    const coverage = await inspectCoverage(this.#context.tables, this.#context.coverage, maxRowsWaitedFor + 1);
    const latest = await this.#context.latestSurvey.get(rowsOf(coverage) > maxRowsWaitedFor ? 0 : undefined);
    const warnings = [
      ...coverage.missing.map((table) => `The covered table ${table} does not exist, or lacks the encrypted columns.`),
      ...coverage.uncovered.map(
        ({ table, rows }) =>
          `The table ${table} holds ${countOf(rows)} encrypted row(s) and is not covered: no rotation can run.`,
      ),
    ];
    if (await this.#isStagedInVain()) {
      warnings.push('PROVARA_MASTER_KEY_NEW is not 64 hexadecimal characters: no rotation goes to it. See npm run key:generate.');
    }
    if (this.#context.isAuditFailing()) {
      warnings.push('The audit log takes no records, and no key is opened until it does: see VAULT_AUDIT_LOG.');
    }
    if (latest !== null && latest.rowsFailed > 0) {
      warnings.push(
        `${latest.rowsFailed} of ${latest.rowsScanned} row(s) do not open with any key of the keyring: see POST /admin/verify.`,
      );
    }
    if (this.#context.requireFormat2 && latest !== null && latest.rowsOfFormat1 > 0) {
      warnings.push(
        `${latest.rowsOfFormat1} row(s) of api_keys are in format 1, which VAULT_REQUIRE_FORMAT_2 refuses: find out who put them there, then delete them, or accept them as they are with a rotation that has upgrade_format.`,
      );
    }
    return warnings;
  }

  async #isStagedInVain(): Promise<boolean> {
    const next = this.#context.keyring.givenAs('PROVARA_MASTER_KEY_NEW');
    return next?.isPassphrase === true && !wasActive(await this.#context.masterKeys.all(), next.id);
  }
}

function countOf(rows: number): string {
  return rows > maxRowsWaitedFor ? `more than ${maxRowsWaitedFor}` : String(rows);
}

function adviceFor(role: string): string {
  return role === 'active'
    ? 'check PROVARA_MASTER_KEY'
    : 'the rotation needs it as PROVARA_MASTER_KEY_OLD or PROVARA_MASTER_KEY_NEW';
}

/**
 * The keys that the unfinished rotation needs. None if it was abandoned before its switch: it has written nothing, may have been
 * begun with a mistyped key, and may be cancelled.
 */
function keyIdsNeededBy(rotation: RotationRecord): string[] {
  const { fromKeyId, toKeyId, isRerun, isSwitched } = rotation;
  if (!isSwitched && !isRunning(rotation)) return [];
  return isRerun ? [toKeyId] : [fromKeyId, toKeyId];
}

function leftRotationWarnings(unfinished: RotationRecord | null): string[] {
  if (unfinished === null || isRunning(unfinished)) return [];
  const { id, state, isSwitched } = unfinished;
  const orCancel = isSwitched ? '' : ', or cancel it';
  return [`The rotation ${id} is unfinished (${state}): see GET /admin/rotate/${id}, and run it again to finish it${orCancel}.`];
}
