/**
 * The decrypt gate: every row of every covered table is opened before anything is written, and the rotation continues only if all
 * of them open.
 */

import {
  DecryptGateFailedError,
  errorWithCode,
  ReplicaMissingKeyError,
  RotationInProgressError,
  StorageUnavailableError,
  VaultError,
} from '../errors.ts';
import type { EncryptedPage } from '../store/encrypted-rows.ts';
import type { Inspection } from './inspection.ts';

/** Of pages as they were read. What they are sealed to holds old and new, about twice as much, and is kept until it is written. */
const maxSealedBytes = 16 * 1024 * 1024;

/** Which pages the gate seals as well, so that they need not be read and opened once more: as many as fit into bounded memory. */
export function sealsFirstPages(): (page: EncryptedPage) => boolean {
  let bytes = 0;
  return ({ cells }) => {
    bytes += cells.length;
    return bytes <= maxSealedBytes;
  };
}

/** Throws DecryptGateFailedError, which names the failing rows. */
export function assertPassed({ rowsScanned, rowsFailed, failures }: Inspection): void {
  const [first] = failures;
  if (first === undefined) return;
  throw new DecryptGateFailedError(
    `Decrypt failed for ${first.table}.id=${first.id} — the old key does not match. ` +
      `${rowsFailed} of ${rowsScanned} row(s) failed; nothing was written.`,
    {
      rows_scanned: rowsScanned,
      rows_failed: rowsFailed,
      failures: failures.map(({ table, id, reason, keyId }) => ({ table, id, reason, ...(keyId && { key_id: keyId }) })),
    },
  );
}

/** What another run of the same command, or waiting, settles: it says so whether the active key has been switched or not. */
const passingErrors = [StorageUnavailableError, RotationInProgressError, ReplicaMissingKeyError];

/**
 * The same error, which also says, in `details.switched` too, that both keys are needed where its rotation had switched the active key
 * before: that nothing was written is so of this attempt at most.
 */
export function afterSwitch(error: unknown, { isSwitched }: { readonly isSwitched: boolean }): unknown {
  if (!isSwitched || !(error instanceof VaultError) || passingErrors.some((passing) => error instanceof passing)) return error;
  const message = `${error.message} The active key had been switched before: keep both keys.`;
  return errorWithCode(error.code, message, { ...error.details, switched: true });
}
