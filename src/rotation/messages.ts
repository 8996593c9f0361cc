/** The sentences about a rotation that operators and their scripts read, the same over HTTP and on the command line. */

import { leaseSeconds, type RotationRecord } from '../store/rotation-record.ts';
import type { Inspection } from './inspection.ts';
import { rowsLateOf } from './verify.ts';

export function dryRunMessage(rowsScanned: number, oldKeyName = 'old'): string {
  return `DRY RUN — scanned ${rowsScanned} row(s). Every row decrypts cleanly with the ${oldKeyName} key.`;
}

export function rotationMessage({ rowsRotated, rowsScanned }: Pick<RotationRecord, 'rowsRotated' | 'rowsScanned'>): string {
  return `rotated ${rowsRotated} of ${rowsScanned} row(s).`;
}

/** For a rotation whose process could not record how it ended. */
export const leftMessage = `Nothing has been heard of the process that ran it for ${leaseSeconds} seconds: run the same rotation again to finish it.`;

/** For rows found after the switch under neither of the two keys. */
export const underAnotherKey =
  'are under another key of the keyring, and are rotated too: a program still writes with that key. Give it the new one.';

export interface WarningContext {
  readonly toKeyId: string;
  readonly rowsSkipped: number;
  /** Counted by a dry run. */
  readonly rowsOther?: number;
  /** A dry run finds none. */
  readonly rowsFoundLate?: number;
  readonly tables: readonly { readonly table: string }[];
}

/** What remains for the operator to do. */
export function rotationWarnings({ toKeyId, rowsSkipped, rowsOther = 0, rowsFoundLate = 0, tables }: WarningContext): string[] {
  const names = tables.map(({ table }) => table).join(', ');
  const warnings = [
    `Programs that open rows of ${names} themselves, without the vault, fail once the rows are under ${toKeyId} and until their own PROVARA_MASTER_KEY is that key.`,
  ];
  if (rowsSkipped > 0) {
    warnings.push(`${rowsSkipped} skipped row(s) are still under another key: keep that key in the keyring.`);
  }
  if (rowsOther > 0) {
    warnings.push(`${rowsOther} row(s) ${underAnotherKey}`);
  }
  if (rowsFoundLate > 0) {
    warnings.push(
      `${rowsFoundLate} time(s) a row was written under the old key after all had been rotated, and was rotated too: a program still uses that key. Give it the new one, and run this again before you retire the old.`,
    );
  }
  return warnings;
}

/** Why a rotation ended as `verify_failed`, with the rows. */
export function verificationFailure(found: Inspection): string {
  const { failures, rowsFailed, rowsOld, namesLeft } = found;
  const rowsLate = rowsLateOf(found);
  const failed = failures.map(({ table, id, reason }) => `${table}.id=${id} (${reason})`);
  const sentences = [
    ...(rowsFailed > 0 ? [`${rowsFailed} row(s) open with neither key: ${failed.join(', ')}`] : []),
    ...(rowsLate > 0
      ? [`${rowsLate} row(s) are ${rowsOld > 0 ? 'under the old key' : 'in format 1'} again: ${listed(namesLeft, rowsLate)}`]
      : []),
  ];
  return `${sentences.join('; ')}.`;
}

function listed(names: readonly string[], count: number): string {
  return names.join(', ') + (count > names.length ? ', …' : '');
}
