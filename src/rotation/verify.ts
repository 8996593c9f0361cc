/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import { maxListedFailures, namedPages, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { PageWorkers } from './page-workers.ts';
import type { Progress } from './progress.ts';

export interface Verification {
  readonly rowsScanned: number;
  readonly rowsVerified: number;
  readonly rowsSkipped: number;
  /** Rows that a program which does not know of the vault has written under the old key meanwhile. */
  readonly rowsLeft: number;
  readonly rowsFailed: number;
  readonly failures: readonly RowFailure[];
}

export async function verify(
  tables: EncryptedTables,
  tableNames: readonly string[],
  workers: PageWorkers,
  progress: Progress,
): Promise<Verification> {
  let [rowsScanned, rowsVerified, rowsSkipped, rowsLeft, rowsFailed] = [0, 0, 0, 0, 0];
  const failures: RowFailure[] = [];
  for await (const page of workers.inspectAll(namedPages(tables, tableNames))) {
    rowsScanned += page.rows;
    rowsVerified += page.rowsNew - page.rowsToUpgrade;
    rowsSkipped += page.rowsSkipped;
    rowsLeft += page.rowsOld + page.rowsToUpgrade;
    rowsFailed += page.rowsFailed;
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    progress.advance(page.rows);
  }
  return { rowsScanned, rowsVerified, rowsSkipped, rowsLeft, rowsFailed, failures };
}
