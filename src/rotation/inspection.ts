/** Opens every row of the covered tables, changes nothing, and adds up what that has shown: for the gate, and for the verification. */

import { type CoveredPart, coveredPages, maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import type { EncryptedPage } from '../store/encrypted-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';
import { noRows, type RowCounts, type SealedPage } from './page-work.ts';
import type { PageWorkers } from './page-workers.ts';
import type { Progress } from './progress.ts';

export interface Inspection extends RowCounts {
  readonly rowsScanned: number;
  readonly tables: readonly TableCount[];
  /** What has been sealed on the way, in the order of the tables. */
  readonly sealed: SealedPage[];
  /** The first rows that are to be rotated, as `table.id=id`. */
  readonly namesLeft: readonly string[];
  /** Rows that are to be rotated, a part for each: all of them, or fewer where they are many. */
  readonly partsLeft: readonly CoveredPart[];
  /** The row id that was last seen of each table. */
  readonly lastRowIds: ReadonlyMap<string, bigint>;
}

const maxPartsLeft = 1_000;
const maxNamesLeft = 20;

/** What is worked on, and who works. */
export interface TableWork {
  readonly tables: EncryptedTables;
  readonly tableNames: readonly string[];
  readonly workers: PageWorkers;
  readonly progress: Progress;
  /** Asked before each page is counted or written; it ends the work by what it throws. */
  readonly assertGoesOn: () => void;
}

export function everything({ tableNames }: Pick<TableWork, 'tableNames'>): CoveredPart[] {
  return tableNames.map((table) => ({ table }));
}

/** Of all rows. Each pass that is made asks for an `isToSeal` of its own. Throws StorageUnavailableError. */
export function inspectAll(work: TableWork, sealing?: () => (page: EncryptedPage) => boolean): Promise<Inspection> {
  return work.tables.pass(() => inspect(work, sealing?.()));
}

/** Of all rows, or of those in some parts, in one pass: see {@link EncryptedTables.pass}. Seals too the pages that `isToSeal` says yes to. */
export async function inspect(
  work: TableWork,
  isToSeal: (page: EncryptedPage) => boolean = () => false,
  parts: readonly CoveredPart[] = everything(work),
): Promise<Inspection> {
  const { tables, tableNames, workers, progress, assertGoesOn } = work;
  const total = { ...noRows };
  let rowsScanned = 0;
  const failures: RowFailure[] = [];
  const sealed: SealedPage[] = [];
  const rowsByTable = new Map(tableNames.map((table) => [table, 0]));
  const namesLeft: string[] = [];
  const partsLeft: CoveredPart[] = [];
  const lastRowIds = new Map<string, bigint>();
  for await (const page of workers.work(coveredPages(tables, parts), isToSeal)) {
    assertGoesOn();
    for (const count of Object.keys(total) as (keyof typeof total)[]) total[count] += page[count];
    rowsScanned += page.rows;
    failures.push(...page.failures.slice(0, maxListedFailures - failures.length));
    const left = page.rowsLeft.slice(0, maxPartsLeft - partsLeft.length);
    partsLeft.push(...left.map(({ rowId }) => partOf(page.table, rowId)));
    namesLeft.push(...left.slice(0, maxNamesLeft - namesLeft.length).map(({ id }) => `${page.table}.id=${id}`));
    if (page.sealed !== null) sealed.push(page.sealed);
    lastRowIds.set(page.table, page.lastRowId);
    rowsByTable.set(page.table, (rowsByTable.get(page.table) ?? 0) + page.rows);
    progress.advance(page.rows);
  }
  const counts = [...rowsByTable].map(([table, rows]) => ({ table, rows }));
  return { ...total, rowsScanned, failures, sealed, namesLeft, partsLeft, lastRowIds, tables: counts };
}

function partOf(table: string, rowId: string): CoveredPart {
  return { table, range: { from: BigInt(rowId), to: BigInt(rowId) } };
}
