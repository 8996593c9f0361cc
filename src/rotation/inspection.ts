/** Opens every row of the covered tables, changes nothing, and adds up what that has shown: for the gate, and for the verification. */

import { maxListedFailures, namedPages, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import type { RowCounts } from './page-work.ts';
import type { PageWorkers } from './page-workers.ts';
import type { Progress } from './progress.ts';

export interface Inspection extends RowCounts {
  readonly rowsScanned: number;
  readonly tables: readonly TableCount[];
}

/** `assertGoesOn` is asked before each page is added, and ends it by what it throws. */
export async function inspect(
  tables: EncryptedTables,
  tableNames: readonly string[],
  workers: PageWorkers,
  progress: Progress,
  assertGoesOn: () => void,
): Promise<Inspection> {
  const total = { rowsOld: 0, rowsNew: 0, rowsToUpgrade: 0, rowsSkipped: 0, rowsFailed: 0, ciphertextCharacters: 0 };
  let rowsScanned = 0;
  const failures: RowFailure[] = [];
  const rowsByTable = new Map(tableNames.map((table) => [table, 0]));
  for await (const page of workers.inspectAll(namedPages(tables, tableNames))) {
    assertGoesOn();
    for (const count of Object.keys(total) as (keyof typeof total)[]) total[count] += page[count];
    rowsScanned += page.rows;
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    rowsByTable.set(page.table, (rowsByTable.get(page.table) ?? 0) + page.rows);
    progress.advance(page.rows);
  }
  return { ...total, rowsScanned, failures, tables: [...rowsByTable].map(([table, rows]) => ({ table, rows })) };
}
