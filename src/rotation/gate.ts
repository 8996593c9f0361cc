/** The decrypt gate: opens every row of every covered table before anything is written, and lets pass only if all open. */

import { DecryptGateFailedError } from '../errors.ts';
import { coveredPages, maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedRow, EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import type { RowClass, RowClassifier } from './classify.ts';
import type { Progress } from './progress.ts';

export interface GateReport {
  readonly rowsScanned: number;
  readonly rowsOld: number;
  readonly rowsNew: number;
  /** Those of the new key that are to be written all the same, in format 2. */
  readonly rowsToUpgrade: number;
  readonly rowsSkipped: number;
  readonly rowsFailed: number;
  readonly failures: readonly RowFailure[];
  readonly tables: readonly TableCount[];
  /** Of all covered rows, in hex characters. */
  readonly ciphertextCharacters: number;
}

/** Reads everything and changes nothing. */
export async function gate(
  tables: EncryptedTables,
  tableNames: readonly string[],
  classifier: RowClassifier,
  progress: Progress,
): Promise<GateReport> {
  const report = {
    rowsScanned: 0,
    rowsOld: 0,
    rowsNew: 0,
    rowsToUpgrade: 0,
    rowsSkipped: 0,
    rowsFailed: 0,
    failures: [] as RowFailure[],
    ciphertextCharacters: 0,
  };
  const counts = new Map(tableNames.map((table) => [table, 0]));
  for await (const { table, rows } of coveredPages(
    tables,
    tableNames.map((name) => ({ table: name })),
  )) {
    for (const row of rows) tally(report, classifier.classify(table, row), row);
    report.rowsScanned += rows.length;
    counts.set(table, (counts.get(table) ?? 0) + rows.length);
    progress.advance(rows.length);
  }
  return { ...report, tables: [...counts].map(([table, rows]) => ({ table, rows })) };
}

/** Throws DecryptGateFailedError, which names the failing rows. */
export function assertPassed({ rowsScanned, rowsFailed, failures }: GateReport): void {
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

interface Tally {
  rowsOld: number;
  rowsNew: number;
  rowsToUpgrade: number;
  rowsSkipped: number;
  rowsFailed: number;
  ciphertextCharacters: number;
  readonly failures: RowFailure[];
}

function tally(report: Tally, rowClass: RowClass, row: EncryptedRow): void {
  report.ciphertextCharacters += row.encryptedValue?.length ?? 0;
  switch (rowClass.kind) {
    case 'skipped':
      report.rowsSkipped += 1;
      break;
    case 'rotated':
      report.rowsNew += 1;
      break;
    case 'to_rotate':
      rowClass.plaintext.fill(0);
      report.rowsNew += rowClass.isUnderNewKey ? 1 : 0;
      report.rowsToUpgrade += rowClass.isUnderNewKey ? 1 : 0;
      report.rowsOld += rowClass.isUnderNewKey ? 0 : 1;
      break;
    case 'failed':
      report.rowsFailed += 1;
      if (report.failures.length < maxListedFailures) report.failures.push(rowClass.failure);
      break;
  }
}
