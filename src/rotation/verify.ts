/** Reads every row back and opens it with the new key: only a row that was read again counts as verified. */

import { type CoveredPart, coveredPages } from '../keys/covered-rows.ts';
import { everything, type Inspection, inspect, type TableWork } from './inspection.ts';
import type { PageReport, RowCounts } from './page-work.ts';

/** How often rows are rotated again that a program keeps writing under the old key, before that is an error. */
const maxTimesLate = 5;

/** Rotates the late rows in these parts: see {@link rowsLateOf}. `page` is the report that found them. */
export type RotateLate = (late: readonly CoveredPart[], page: PageReport) => Promise<void>;

/** Rows that a program unaware of the vault has written meanwhile under the old key, or in the format being replaced. */
export function rowsLateOf({ rowsOld, rowsToUpgrade }: RowCounts): number {
  return rowsOld + rowsToUpgrade;
}

/**
 * Late rows are rotated and read again before the next page is read. Each row was thus under the new key when it was last read,
 * which is all that any verification can show; and the pass ends even while a program keeps writing, however long it takes. The
 * result counts as late only rows that were late each time. Throws StorageUnavailableError, and what `rotateLate` throws.
 */
export function verify(work: TableWork, rotateLate: RotateLate): Promise<Inspection> {
  return work.tables.pass(() => inspect(work, settledPages(work, everything(work), rotateLate, maxTimesLate)));
}

async function* settledPages(
  work: TableWork,
  parts: readonly CoveredPart[],
  rotateLate: RotateLate,
  times: number,
): AsyncGenerator<PageReport> {
  for await (const page of work.workers.work(coveredPages(work.tables, parts), () => false)) {
    if (rowsLateOf(page) === 0 || times === 0) yield page;
    else {
      const { settled, late } = split(page);
      await rotateLate(late, page);
      if (settled !== null) yield settled;
      yield* settledPages(work, late, rotateLate, times - 1);
    }
  }
}

/** The parts of a page to read again, and the report on the rest: null if there are too many late rows to list. */
function split(page: PageReport): { settled: PageReport | null; late: CoveredPart[] } {
  const { table, range, rows, rowsLeft, rowsNew, rowsToUpgrade } = page;
  if (rowsLeft.length < rowsLateOf(page)) return { settled: null, late: [{ table, range }] };
  const noneLate = { rowsOld: 0, rowsOther: 0, rowsToUpgrade: 0, rowsNew: rowsNew - rowsToUpgrade, rowsLeft: [] };
  const late = rowsLeft.map(({ rowId }) => ({ table, range: { from: BigInt(rowId), to: BigInt(rowId) } }));
  return { settled: { ...page, ...noneLate, rows: rows - late.length }, late };
}
