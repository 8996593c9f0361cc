/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import { type CoveredPart, coveredPages } from '../keys/covered-rows.ts';
import { everything, type Inspection, inspect, type TableWork } from './inspection.ts';
import type { PageReport, RowCounts } from './page-work.ts';

/** How often rows are rotated that a program writes under the old key again each time, before that is an error. */
const maxTimesLate = 5;

/** Rotates the rows of these parts, which are late: see {@link rowsLateOf}. `page` is what they were found on. */
export type RotateLate = (late: readonly CoveredPart[], page: PageReport) => Promise<void>;

/** Rows that a program which does not know of the vault has written meanwhile under the old key, or in the format that is being left. */
export function rowsLateOf({ rowsOld, rowsToUpgrade }: RowCounts): number {
  return rowsOld + rowsToUpgrade;
}

/**
 * Late rows are rotated and read again before the next page is. So each row was under the new key when it was last read, and no
 * verification says more of a row; and it ends beside a program that goes on writing, however long reading everything takes. Late rows
 * that it still finds are those that are late each time. Throws StorageUnavailableError, and what `rotateLate` throws.
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

/** What is to be read again of a page, and what need not be: nothing, where the late rows are too many to be listed. */
function split(page: PageReport): { settled: PageReport | null; late: CoveredPart[] } {
  const { table, range, rows, rowsLeft, rowsNew, rowsToUpgrade } = page;
  if (rowsLeft.length < rowsLateOf(page)) return { settled: null, late: [{ table, range }] };
  const noneLate = { rowsOld: 0, rowsOther: 0, rowsToUpgrade: 0, rowsNew: rowsNew - rowsToUpgrade, rowsLeft: [] };
  const late = rowsLeft.map(({ rowId }) => ({ table, range: { from: BigInt(rowId), to: BigInt(rowId) } }));
  return { settled: { ...page, ...noneLate, rows: rows - late.length }, late };
}
