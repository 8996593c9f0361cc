/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import type { RowFailure } from '../keys/covered-rows.ts';
import { inspect, type TableWork } from './inspection.ts';

export interface Verification {
  readonly rowsScanned: number;
  readonly rowsVerified: number;
  readonly rowsSkipped: number;
  /** Rows that a program which does not know of the vault has written under the old key meanwhile. */
  readonly rowsLeft: number;
  readonly rowsFailed: number;
  readonly failures: readonly RowFailure[];
}

export async function verify(work: TableWork): Promise<Verification> {
  const inspection = await inspect(work);
  const { rowsScanned, rowsOld, rowsNew, rowsToUpgrade, rowsSkipped, rowsFailed, failures } = inspection;
  return {
    rowsScanned,
    rowsVerified: rowsNew - rowsToUpgrade,
    rowsSkipped,
    rowsLeft: rowsOld + rowsToUpgrade,
    rowsFailed,
    failures,
  };
}
