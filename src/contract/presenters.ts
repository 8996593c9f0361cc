/** Converts the services' results into the shapes of the contract: snake_case names and RFC 3339 times. */

import { parseRecord } from '../crypto/audit-chain.ts';
import type { MasterKeyReport } from '../keys/report.ts';
import type { Survey } from '../keys/survey.ts';
import type { DryRun } from '../rotation/engine.ts';
import { dryRunMessage, leftMessage, rotationMessage, rotationWarnings } from '../rotation/messages.ts';
import type { AuditRow } from '../store/audit.ts';
import { isRunning, type RotationProgress, type RotationRecord } from '../store/rotation-record.ts';
import type { ListedApiKey } from '../vault/api-keys.ts';
import type { ApiKeyAnswer, AuditRecordAnswer, RotationAnswer } from './schemas.ts';

/** RFC 3339 years have four digits. */
const lastSecond = Date.UTC(10_000, 0) / 1000 - 1;

/** A time that RFC 3339 cannot express, which another program may have written, is shown as the epoch. */
function toTime(unixSeconds: number): string {
  const isWritable = unixSeconds >= -62_167_219_200 && unixSeconds <= lastSecond;
  return new Date(isWritable ? unixSeconds * 1000 : 0).toISOString();
}

function toTimeOrNull(unixSeconds: number | null): string | null {
  return unixSeconds === null ? null : toTime(unixSeconds);
}

export function presentApiKey(key: ListedApiKey): ApiKeyAnswer {
  return {
    id: key.id,
    tenant_id: key.tenantId,
    name: key.name,
    provider: key.provider,
    masked_value: key.maskedValue,
    key_id: key.keyId,
    created_at: toTime(key.createdAt),
    updated_at: toTime(key.updatedAt),
    last_used_at: toTimeOrNull(key.lastUsedAt),
  };
}

export function presentDryRun(dryRun: DryRun) {
  return {
    dry_run: true as const,
    rows_scanned: dryRun.rowsScanned,
    rows_old: dryRun.rowsOld,
    rows_new: dryRun.rowsNew,
    rows_failed: dryRun.rowsFailed,
    rows_skipped: dryRun.rowsSkipped,
    from_key_id: dryRun.fromKeyId,
    to_key_id: dryRun.toKeyId,
    tables: [...dryRun.tables],
    warnings: rotationWarnings(dryRun),
    message: dryRunMessage(dryRun.rowsScanned),
  };
}

/** `liveProgress`: from the process that runs the rotation, if it is this one; otherwise the owner's last report is used. */
export function presentRotation(
  rotation: RotationRecord,
  tables: readonly string[],
  liveProgress: RotationProgress | null,
): RotationAnswer {
  const progress = isRunning(rotation) ? (liveProgress ?? rotation.progress) : null;
  return {
    id: rotation.id,
    state: rotation.state,
    rows_scanned: rotation.rowsScanned,
    rows_rotated: rotation.rowsRotated,
    rows_already_rotated: rotation.rowsAlreadyRotated,
    rows_skipped: rotation.rowsSkipped,
    rows_verified: rotation.rowsVerified,
    from_key_id: rotation.fromKeyId,
    to_key_id: rotation.toKeyId,
    upgrade_format: rotation.upgradeFormat,
    started_at: toTime(rotation.startedAt),
    finished_at: toTimeOrNull(rotation.finishedAt),
    progress: progress && {
      rows_done: progress.rowsDone,
      rows_total: progress.rowsTotal,
      rows_per_second: progress.rowsPerSecond,
      seconds_left: progress.secondsLeft,
    },
    snapshot: rotation.snapshot,
    error: rotation.error ?? (rotation.state === 'interrupted' ? leftMessage : null),
    warnings: rotationWarnings({ ...rotation, tables: tables.map((table) => ({ table })) }),
    message: rotationMessage(rotation),
  };
}

export function presentSurvey(survey: Survey) {
  return {
    rows_scanned: survey.rowsScanned,
    rows_by_key_id: Object.fromEntries(survey.rowsByKeyId),
    rows_failed: survey.rowsFailed,
    failures: survey.failures.map(({ table, id, reason }) => ({ table, id, reason })),
  };
}

export function presentMasterKey(key: MasterKeyReport) {
  return {
    key_id: key.keyId,
    source: key.source,
    state: key.state,
    rows: key.rows,
    age_days: key.ageDays,
    rotation_due: key.rotationDue,
    safe_to_retire: key.safeToRetire,
    stateless_last_used_at: toTimeOrNull(key.statelessLastUsedAt),
  };
}

/** The record's own claims; only `audit verify` tells whether it is authentic. */
export function presentAuditRow({ line }: AuditRow, cursor: string): AuditRecordAnswer {
  const record = parseRecord(line) ?? {};
  const textOf = (name: string): string | null => (typeof record[name] === 'string' ? record[name] : null);
  const { details, seq } = record;
  return {
    cursor,
    time: textOf('time'),
    actor: textOf('actor'),
    role: textOf('role'),
    request_id: textOf('request_id'),
    act: textOf('act'),
    outcome: textOf('outcome'),
    tenant_id: textOf('tenant_id'),
    name: textOf('name'),
    id: textOf('id'),
    details: typeof details === 'object' && !Array.isArray(details) ? (details as Record<string, unknown> | null) : null,
    chain: textOf('chain'),
    seq: Number.isSafeInteger(seq) ? (seq as number) : null,
  };
}
