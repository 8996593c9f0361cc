/** Adds up what opening every row of the covered tables has shown: for the gate, and for the verification. */

import type { CoverageSettings } from '../keys/coverage.ts';
import { type CoveredPart, maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import { noRows, type PageReport, type RowCounts, type SealedPage } from './page-work.ts';
import type { PageWorkers } from './page-workers.ts';
import type { Progress } from './progress.ts';

export interface Inspection extends RowCounts {
  readonly rowsScanned: number;
  readonly tables: readonly TableCount[];
  /** Pages sealed during the inspection, in the order of the tables. */
  readonly sealed: SealedPage[];
  /** The first rows that are to be rotated, as `table.id=id`. */
  readonly namesLeft: readonly string[];
}

const maxNamesLeft = 20;

export interface TableWork {
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly workers: PageWorkers;
  readonly progress: Progress;
  /** Called before each page is counted or written; throws to end the work. */
  readonly assertGoesOn: () => void;
}

export function everything({ coverage }: TableWork): CoveredPart[] {
  return coverage.encryptedTables.map((table) => ({ table }));
}

/** Adds up the reports on the pages of one pass: see {@link EncryptedTables.pass}. */
export async function inspect(work: TableWork, pages: AsyncIterable<PageReport>): Promise<Inspection> {
  const { coverage, progress, assertGoesOn } = work;
  const total = { ...noRows };
  let rowsScanned = 0;
  const failures: RowFailure[] = [];
  const sealed: SealedPage[] = [];
  const rowsByTable = new Map(coverage.encryptedTables.map((table) => [table, 0]));
  const namesLeft: string[] = [];
  for await (const page of pages) {
    assertGoesOn();
    for (const count of Object.keys(total) as (keyof typeof total)[]) total[count] += page[count];
    rowsScanned += page.rows;
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    namesLeft.push(...page.rowsLeft.slice(0, maxNamesLeft - namesLeft.length).map(({ id }) => `${page.table}.id=${id}`));
    if (page.sealed !== null) sealed.push(page.sealed);
    rowsByTable.set(page.table, (rowsByTable.get(page.table) ?? 0) + page.rows);
    progress.advance(page.rows);
  }
  const counts = [...rowsByTable].map(([table, rows]) => ({ table, rows }));
  return { ...total, rowsScanned, failures, sealed, namesLeft, tables: counts };
}
