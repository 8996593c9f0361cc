/** Opens every row of the covered tables, changes nothing, and adds up what that has shown: for the gate, and for the verification. */

import { coveredPages, maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedPage } from '../store/encrypted-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import type { RowCounts, SealedPage } from './page-work.ts';
import type { PageWorkers } from './page-workers.ts';
import type { Progress } from './progress.ts';

export interface Inspection extends RowCounts {
  readonly rowsScanned: number;
  readonly tables: readonly TableCount[];
  /** What has been sealed on the way, in the order of the tables. */
  readonly sealed: SealedPage[];
}

/** What is worked on, and who works. */
export interface TableWork {
  readonly tables: EncryptedTables;
  readonly tableNames: readonly string[];
  readonly workers: PageWorkers;
  readonly progress: Progress;
  /** Asked before each page is counted or written; it ends the work by what it throws. */
  readonly assertGoesOn: () => void;
}

/** Seals too the pages that `isToSeal` says yes to. */
export async function inspect(
  { tables, tableNames, workers, progress, assertGoesOn }: TableWork,
  isToSeal: (page: EncryptedPage) => boolean = () => false,
): Promise<Inspection> {
  const total = { rowsOld: 0, rowsNew: 0, rowsToUpgrade: 0, rowsSkipped: 0, rowsFailed: 0, ciphertextCharacters: 0 };
  let rowsScanned = 0;
  const failures: RowFailure[] = [];
  const sealed: SealedPage[] = [];
  const rowsByTable = new Map(tableNames.map((table) => [table, 0]));
  const parts = tableNames.map((table) => ({ table }));
  for await (const page of workers.work(coveredPages(tables, parts), isToSeal)) {
    assertGoesOn();
    for (const count of Object.keys(total) as (keyof typeof total)[]) total[count] += page[count];
    rowsScanned += page.rows;
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    if (page.sealed !== null) sealed.push(page.sealed);
    rowsByTable.set(page.table, (rowsByTable.get(page.table) ?? 0) + page.rows);
    progress.advance(page.rows);
  }
  return { ...total, rowsScanned, failures, sealed, tables: [...rowsByTable].map(([table, rows]) => ({ table, rows })) };
}
