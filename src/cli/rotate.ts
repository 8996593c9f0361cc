/** `rotate`: the whole rotation directly on the database, whether or not the service is running. */

import { setFlagsFromString } from 'node:v8';
import { Presets, SingleBar } from 'cli-progress';
import { cliActor } from '../audit/event.ts';
import { presentDryRun, presentRotation } from '../contract/presenters.ts';
import { Keyring } from '../crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../crypto/master-key.ts';
import { type DecryptGateFailedError, ReplicaMissingKeyError, ValidationError } from '../errors.ts';
import { dryRunMessage, rotationMessage, rotationWarnings, type WarningContext } from '../rotation/messages.ts';
import type { RotationRequest } from '../rotation/plan.ts';
import { Progress } from '../rotation/progress.ts';
import type { Services } from '../services.ts';
import { type Environment, SettingsReader } from '../settings.ts';
import type { RotationProgress } from '../store/rotation-record.ts';
import { exitCodes } from './exit-codes.ts';
import { print, printError, printJson } from './output.ts';
import { readConfig, untilSignalled, withServices } from './session.ts';

const oldKeyName = '--old';
const barIntervalMs = 200;

export interface RotateFlags {
  readonly old?: string;
  readonly new?: string;
  readonly dryRun?: boolean;
  readonly skip?: readonly string[];
  readonly upgradeFormat?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** Returns the exit code. */
export async function rotate(flags: RotateFlags, environment: Environment): Promise<number> {
  // Pages are garbage once they are written, and V8 would let as much garbage accumulate as there is live memory.
  setFlagsFromString('--heap-growing-percent=20');
  const [oldKey, newKey] = readKeys(flags, environment);
  const config = readConfig(environment);
  const keyring = new Keyring([{ source: oldKeyName, key: oldKey }, { source: '--new', key: newKey }, ...config.keyring.given]);
  const request = {
    oldKeyId: oldKey.id,
    newKeyId: newKey.id,
    skipIds: flags.skip,
    upgradeFormat: flags.upgradeFormat,
    isForced: flags.force,
    actor: cliActor(),
  };
  const run = flags.dryRun === true ? dryRun : execute;
  return withServices({ ...config, keyring }, (services) =>
    untilSignalled(services, () => run(services, request, flags, config.coverage.encryptedTables)),
  );
}

/** Reports a failed gate as the service does, in the wording that operators' scripts know, and lists the rows. */
export function explainGateFailure(error: DecryptGateFailedError): void {
  const { failures, rows_failed, rows_scanned, switched } = error.details as unknown as GateDetails;
  const [first, ...others] = failures;
  if (first === undefined) return;
  printError(`Decrypt failed for ${first.table}.id=${first.id} — the ${oldKeyName} key does not match (${describe(first)})`);
  for (const failure of others) printError(`  ${failure.table}.id=${failure.id} (${describe(failure)})`, '');
  const unnamed = rows_failed - failures.length;
  if (unnamed > 0) printError(`  and ${unnamed} more`, '');
  printError(`${rows_failed} of ${rows_scanned} row(s) failed; nothing was written.`, '');
  if (switched) printError('The active key had been switched before: keep both keys.', '');
}

interface GateFailure {
  readonly table: string;
  readonly id: string;
  readonly reason: string;
  readonly key_id?: string;
}

interface GateDetails {
  readonly failures: readonly GateFailure[];
  readonly rows_failed: number;
  readonly rows_scanned: number;
  /** True if the rotation had switched the active key before. */
  readonly switched?: boolean;
}

function describe({ reason, key_id }: GateFailure): string {
  return key_id === undefined ? reason : `${reason} ${key_id}`;
}

function readKeys(flags: RotateFlags, environment: Environment): [MasterKey, MasterKey] {
  const reader = new SettingsReader(environment);
  const read = (flag: string, value: string | undefined, variable: string): string => {
    if (value === '' || (value === undefined && !reader.isSet(variable))) {
      reader.problem(`${flag}, ${variable} or ${variable}_FILE is required.`);
    }
    return value ?? reader.textOrFile(variable) ?? '';
  };
  const oldText = read(oldKeyName, flags.old, 'PROVARA_MASTER_KEY_OLD');
  const newText = read('--new', flags.new, 'PROVARA_MASTER_KEY_NEW');
  reader.assertNone();
  return [parseMasterKey(oldText), parseMasterKey(newText)];
}

async function dryRun({ rotator }: Services, request: RotationRequest, { json }: RotateFlags): Promise<number> {
  const progress = new Progress();
  const report = await withBar(() => progress.report(), rotator.dryRun(request, { progress }));
  if (json) printJson(presentDryRun(report));
  else {
    print(`[rotate] ${dryRunMessage(report.rowsScanned, oldKeyName)}`);
    if (report.rowsNew > 0) print(`[rotate] ${report.rowsNew} of them are under the --new key already.`);
    if (report.rowsSkipped > 0) print(`[rotate] ${report.rowsSkipped} row(s) are skipped.`);
    printWarnings(report);
  }
  return exitCodes.done;
}

async function execute(
  { rotator, masterKeys, migrate, isMigrated, checkpoint }: Services,
  request: RotationRequest,
  { json }: RotateFlags,
  tables: readonly string[],
): Promise<number> {
  // On a database that the vault has never served, a refused rotation leaves no trace: not even the vault's own tables.
  if (!(await isMigrated())) await rotator.dryRun(request);
  await migrate();
  const running = await rotator.start(request).catch(async (error: unknown) => {
    // A mistyped old key is a key that no replica holds: the gate then reports that it opens no row.
    const mayBeMistyped = request.oldKeyId !== (await masterKeys.activeKeyId());
    if (error instanceof ReplicaMissingKeyError && mayBeMistyped) await rotator.dryRun(request);
    throw error;
  });
  const rotation = await withBar(running.progress, running.done);
  await checkpoint();
  if (json) printJson({ rotation: presentRotation(rotation, tables, null) });
  else if (rotation.state !== 'cancelled') {
    print(`[rotate] ${rotationMessage(rotation)}`);
    if (rotation.snapshot !== null) print(`[rotate] before: ${rotation.snapshot.path}, SHA-256 ${rotation.snapshot.sha256}`);
    if (rotation.rowsAlreadyRotated > 0)
      print(`[rotate] ${rotation.rowsAlreadyRotated} row(s) were under the --new key already.`);
    printWarnings({ ...rotation, tables: tables.map((table) => ({ table })) });
  }
  if (rotation.state === 'completed') return exitCodes.done;
  if (rotation.state === 'cancelled') {
    printError('The rotation was cancelled; nothing was written.');
    return exitCodes.stopped;
  }
  printError(rotation.error ?? `The rotation ended as ${rotation.state}.`);
  return exitCodes.rowsDoNotOpen;
}

function printWarnings(context: WarningContext): void {
  for (const warning of rotationWarnings(context)) print(`[rotate] ${warning}`);
}

/** Shows the progress on standard error, if that is a terminal, until the work ends. */
async function withBar<Result>(report: () => RotationProgress, work: Promise<Result>): Promise<Result> {
  const bar = new SingleBar(
    {
      stream: process.stderr,
      noTTYOutput: false,
      clearOnComplete: true,
      format: '[rotate] {bar} {value}/{total} rows, {left} left',
    },
    Presets.shades_classic,
  );
  bar.start(1, 0, { left: '?' });
  const timer = setInterval(() => {
    const { rowsDone, rowsTotal, secondsLeft } = report();
    bar.setTotal(Math.max(rowsTotal, rowsDone, 1));
    bar.update(rowsDone, { left: secondsLeft === null ? '?' : `${secondsLeft} s` });
  }, barIntervalMs);
  try {
    return await work;
  } finally {
    clearInterval(timer);
    bar.stop();
  }
}

/** Adds to the ids of an earlier --skip. A comma within an id is written `\,`. Throws ValidationError. */
export function parseSkip(value: string, before: readonly string[] = []): string[] {
  const ids = value.split(/(?<!\\),/).map((id) => id.trim().replaceAll('\\,', ','));
  if (ids.includes('')) throw new ValidationError('--skip takes ids, comma-separated.');
  return [...before, ...ids];
}
