/** The decrypt gate: opens every row of every covered table before anything is written, and lets pass only if all open. */

import { DecryptGateFailedError } from '../errors.ts';
import { maxListedFailures, namedPages, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import type { PageWorkers } from './page-workers.ts';
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
  workers: PageWorkers,
  progress: Progress,
): Promise<GateReport> {
  let total = {
    rowsScanned: 0,
    rowsOld: 0,
    rowsNew: 0,
    rowsToUpgrade: 0,
    rowsSkipped: 0,
    rowsFailed: 0,
    ciphertextCharacters: 0,
  };
  const failures: RowFailure[] = [];
  const counts = new Map(tableNames.map((table) => [table, 0]));
  for await (const page of workers.inspectAll(namedPages(tables, tableNames))) {
    total = {
      rowsScanned: total.rowsScanned + page.rows,
      rowsOld: total.rowsOld + page.rowsOld,
      rowsNew: total.rowsNew + page.rowsNew,
      rowsToUpgrade: total.rowsToUpgrade + page.rowsToUpgrade,
      rowsSkipped: total.rowsSkipped + page.rowsSkipped,
      rowsFailed: total.rowsFailed + page.rowsFailed,
      ciphertextCharacters: total.ciphertextCharacters + page.ciphertextCharacters,
    };
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    counts.set(page.table, (counts.get(page.table) ?? 0) + page.rows);
    progress.advance(page.rows);
  }
  return { ...total, failures, tables: [...counts].map(([table, rows]) => ({ table, rows })) };
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
