/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import type { CoveredPart, RowFailure } from '../keys/covered-rows.ts';
import { everything, inspect, type TableWork } from './inspection.ts';

export interface Verification {
  readonly rowsScanned: number;
  readonly rowsVerified: number;
  readonly rowsSkipped: number;
  /** Rows that a program which does not know of the vault has written under the old key meanwhile. */
  readonly rowsLeft: number;
  /** Where they are: a part for each, or null where they are so many that all is sooner read again. */
  readonly partsLeft: readonly CoveredPart[] | null;
  readonly rowsFailed: number;
  readonly failures: readonly RowFailure[];
}

/**
 * Of everything; or, after an earlier one that has left a few rows, of those alone: every other was under the new key when it was
 * read, and no verification says more of a row. It ends beside a program that goes on writing, however long reading everything takes.
 */
export async function verify(work: TableWork, earlier?: Verification): Promise<Verification> {
  const settled = earlier?.partsLeft ? earlier : { rowsScanned: 0, rowsVerified: 0, rowsSkipped: 0, rowsLeft: 0 };
  const inspection = await inspect(work, undefined, earlier?.partsLeft ?? everything(work));
  const { rowsScanned, rowsOld, rowsNew, rowsToUpgrade, rowsSkipped, rowsFailed, failures, partsLeft } = inspection;
  const rowsLeft = rowsOld + rowsToUpgrade;
  return {
    rowsScanned: settled.rowsScanned - settled.rowsLeft + rowsScanned,
    rowsVerified: settled.rowsVerified + rowsNew - rowsToUpgrade,
    rowsSkipped: settled.rowsSkipped + rowsSkipped,
    rowsLeft,
    partsLeft: partsLeft.length === rowsLeft ? partsLeft : null,
    rowsFailed,
    failures,
  };
}
