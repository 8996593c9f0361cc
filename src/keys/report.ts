/** What an operator needs to know about every master key before adding, rotating or retiring one. */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import type { AuditStore } from '../store/audit.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';
import { nameOfSkipped, type SkippedRow } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import { type CoverageSettings, inspectCoverage, tableAmong } from './coverage.ts';
import { stagedKey } from './staged-key.ts';
import type { Survey } from './survey.ts';
import type { Surveyor } from './surveyor.ts';

export const secondsPerDay = 86_400;

/** `staged`: never was active. `retired`: no longer active, or configured only as an old key. */
export type MasterKeyState = 'active' | 'staged' | 'retired';

export interface MasterKeyReport {
  readonly keyId: string;
  /** The setting that holds the key, or null if it is not in the keyring. */
  readonly source: string | null;
  readonly state: MasterKeyState;
  /** Rows that the key opens; null if it is not in the keyring, so that this is unknown. */
  readonly rows: number | null;
  /** Whole days since the key became active, or since the vault first saw it. */
  readonly ageDays: number;
  readonly rotationDue: boolean;
  /** Nothing visible to the vault needs the key any more, and it is not the target of the next rotation. */
  readonly safeToRetire: boolean;
  readonly statelessLastUsedAt: number | null;
}

export interface ReportContext {
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly masterKeys: MasterKeyStore;
  readonly rotations: RotationStore;
  readonly keyring: Keyring;
  readonly surveyor: Surveyor;
  readonly auditStore: AuditStore;
  readonly rotationDueDays: number;
}

/** How often the survey is repeated because a restore put rows back meanwhile. */
const maxSurveys = 3;

/** Opens every row: the counts are facts, not what a column claims. */
export async function reportMasterKeys(context: ReportContext): Promise<{ activeKeyId: string | null; keys: MasterKeyReport[] }> {
  const { masterKeys } = context;
  const { found, isCertain } = await surveyUndisturbed(context);
  const needed = isCertain ? await keyIdsStillNeeded(context, found) : () => true;
  const records = await masterKeys.all();
  const staged = stagedKey(context.keyring, records);
  const activeKeyId = records.find(({ isActive }) => isActive)?.keyId ?? null;
  return { activeKeyId, keys: records.map((record) => reportKey(context, record, staged, found, needed)) };
}

/**
 * Repeats a survey during which a restore ran: it may have put rows back behind the survey's position, under keys that nothing
 * else needs.
 */
async function surveyUndisturbed({ surveyor, auditStore }: ReportContext): Promise<{ found: Survey; isCertain: boolean }> {
  for (let attempt = 1; ; attempt += 1) {
    const position = await auditStore.lastPosition();
    const found = await surveyor.survey();
    const isCertain = !(await hasRestoredSince(auditStore, position));
    if (isCertain || attempt === maxSurveys) return { found, isCertain };
  }
}

async function hasRestoredSince(auditStore: AuditStore, position: number): Promise<boolean> {
  for await (const { line } of auditStore.allAfter(position)) {
    if (line.includes('"act":"snapshot.restore"')) return true;
  }
  return false;
}

function reportKey(
  { keyring, rotationDueDays }: ReportContext,
  record: MasterKeyRecord,
  staged: MasterKey | null,
  { rowsByKeyId }: Survey,
  needed: (keyId: string) => boolean,
): MasterKeyReport {
  const { keyId, statelessLastUsedAt } = record;
  const source = keyring.entries.find(({ key }) => key.id === keyId)?.sources[0] ?? null;
  const rows = source === null ? null : (rowsByKeyId.get(keyId) ?? 0);
  const state = stateOf(record, keyring);
  const ageDays = Math.floor(ageSecondsOf(record) / secondsPerDay);
  return {
    keyId,
    source,
    state,
    rows,
    ageDays,
    rotationDue: isRotationDue(record, rotationDueDays),
    safeToRetire: state !== 'active' && staged?.id !== keyId && rows === 0 && !needed(keyId),
    statelessLastUsedAt,
  };
}

/** Seconds since the key became active, or since the vault first saw it. */
export function ageSecondsOf({ activatedAt, firstSeenAt }: MasterKeyRecord): number {
  // The database's clock, which set these times, may be ahead of this one.
  return Math.max(0, Date.now() / 1000 - (activatedAt ?? firstSeenAt));
}

export function isRotationDue(record: MasterKeyRecord, rotationDueDays: number): boolean {
  return record.isActive && ageSecondsOf(record) >= rotationDueDays * secondsPerDay;
}

/**
 * Keys that are needed although no row opens with them: those of an unfinished rotation, those whose rotation skipped rows that
 * do not open now, and every key while an uncovered table holds rows.
 */
async function keyIdsStillNeeded(
  { tables, coverage, rotations }: ReportContext,
  { failures, rowsFailed }: Survey,
): Promise<(keyId: string) => boolean> {
  const { uncovered } = await inspectCoverage(tables, coverage, 1);
  if (uncovered.length > 0) return () => true;
  const unfinished = await rotations.findUnfinished();
  const needed = new Set(unfinished === null ? [] : [unfinished.fromKeyId, unfinished.toKeyId]);
  const failed = new Set(failures.map(nameOfSkipped));
  const nameInSurvey = ({ table, id }: SkippedRow): string =>
    nameOfSkipped({ table: tableAmong(coverage.encryptedTables, table) ?? table, id });
  const isListComplete = rowsFailed === failures.length;
  for (const row of rowsFailed === 0 ? [] : await rotations.findSkipped()) {
    if (!isListComplete || failed.has(nameInSurvey(row))) needed.add(row.fromKeyId);
  }
  return (keyId) => needed.has(keyId);
}

/**
 * A key that never was active counts as retired if it is configured only as an old key: it belongs to a table that was rotated
 * before the vault served it.
 */
export function stateOf({ keyId, isActive, activatedAt }: MasterKeyRecord, keyring: Keyring): MasterKeyState {
  if (isActive) return 'active';
  const sources = keyring.entries.find(({ key }) => key.id === keyId)?.sources ?? [];
  const isOld = activatedAt !== null || (sources.length > 0 && sources.every((source) => source === 'PROVARA_MASTER_KEY_OLD'));
  return isOld ? 'retired' : 'staged';
}
