/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import { coveredPages, maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { RowClassifier } from './classify.ts';
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
  classifier: RowClassifier,
  progress: Progress,
): Promise<Verification> {
  const counts = { rotated: 0, skipped: 0, to_rotate: 0, failed: 0 };
  const failures: RowFailure[] = [];
  let rowsScanned = 0;
  for await (const { table, rows } of coveredPages(
    tables,
    tableNames.map((name) => ({ table: name })),
  )) {
    for (const row of rows) {
      const rowClass = classifier.classify(table, row);
      counts[rowClass.kind] += 1;
      if (rowClass.kind === 'to_rotate') rowClass.plaintext.fill(0);
      if (rowClass.kind === 'failed' && failures.length < maxListedFailures) failures.push(rowClass.failure);
    }
    rowsScanned += rows.length;
    progress.advance(rows.length);
  }
  return {
    rowsScanned,
    rowsVerified: counts.rotated,
    rowsSkipped: counts.skipped,
    rowsLeft: counts.to_rotate,
    rowsFailed: counts.failed,
    failures,
  };
}
