/** The exit codes of every command: one for each kind of failure, so that a script can tell them apart. */

import { CommanderError } from 'commander';
import { type ErrorCode, StorageUnavailableError, VaultError } from '../errors.ts';
import { SettingsError } from '../settings.ts';

export const exitCodes = {
  done: 0,
  unexpected: 1,
  usage: 2,
  gateFailed: 3,
  inProgress: 4,
  storageUnavailable: 5,
  rowsDoNotOpen: 6,
  snapshotRefused: 7,
  auditBroken: 8,
  stopped: 9,
} as const;

export const exitCodeHelp = `
Exit codes:
  0  done
  1  an unexpected error, or standard output has not taken everything
  2  a flag, a key or a setting is missing or malformed; nothing was written
  3  the decrypt gate failed, or a table is not covered; nothing was written
  4  another rotation is in progress, or a live replica lacks a key
  5  the database is unavailable: run the same command again
  6  rows do not open with any key, or did not when they were read back; or a rotation ended after it had switched the active key: keep both keys
  7  the snapshot is refused: not whole, not authentic, or not of these tables; nothing was written
  8  a record of the audit is broken, missing or out of place, or cannot be verified
  9  the rotation was stopped: by a signal, and the same command finishes it; or it was cancelled, and nothing was written`;

/** A signal stopped the command before its end. */
export class StoppedError extends StorageUnavailableError {}

const codeByError: Partial<Record<ErrorCode, number>> = {
  validation_error: exitCodes.usage,
  configuration_error: exitCodes.usage,
  decrypt_gate_failed: exitCodes.gateFailed,
  uncovered_table: exitCodes.gateFailed,
  rotation_in_progress: exitCodes.inProgress,
  replica_missing_key: exitCodes.inProgress,
  invalid_snapshot: exitCodes.snapshotRefused,
  storage_unavailable: exitCodes.storageUnavailable,
};

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
  if (error instanceof SettingsError) return exitCodes.usage;
  if (error instanceof StoppedError) return exitCodes.stopped;
  if (!(error instanceof VaultError)) return exitCodes.unexpected;
  // After the switch it is not true that nothing was written.
  if (error.details?.['switched'] === true) return exitCodes.rowsDoNotOpen;
  return codeByError[error.code] ?? exitCodes.unexpected;
}
