/** Reads every row back and opens it with the new key: only what has been read again counts as rotated. */

import type { CoveredPart, RowFailure } from '../keys/covered-rows.ts';
import { firstRowId, lastRowId } from '../store/encrypted-tables.ts';
import { everything, inspect, type TableWork } from './inspection.ts';

export interface Verification {
  readonly rowsScanned: number;
  readonly rowsVerified: number;
  readonly rowsSkipped: number;
  /** Rows that a program which does not know of the vault has written under the old key meanwhile. */
  readonly rowsOld: number;
  /** These, and those that it has written in the format which is being left. */
  readonly rowsLeft: number;
  /** The first of them, as `table.id=id`. */
  readonly namesLeft: readonly string[];
  /** Where they are: a part for each, or null where they are so many that all is sooner read again. */
  readonly partsLeft: readonly CoveredPart[] | null;
  /**
   * What has been seen of each table ends with this row id. What is inserted comes behind it, unless it takes the place of a last row
   * that was deleted: SQLite gives that id again. Such a row counts as written after the rotation.
   */
  readonly lastRowIds: ReadonlyMap<string, bigint>;
  /** Row ids that were read in another epoch are no longer those of the same rows. */
  readonly epoch: number;
  readonly rowsFailed: number;
  readonly failures: readonly RowFailure[];
}

/**
 * Of everything; or, after an earlier one that has left a few rows, of those and of what has come behind all that it saw: every
 * other was under the new key when it was read, and no verification says more of a row. So it ends beside a program that goes on
 * writing a few rows, however long reading everything takes. Throws StorageUnavailableError.
 */
export function verify(work: TableWork, earlier?: Verification): Promise<Verification> {
  return work.tables.pass((epoch) => verifyOnce(work, epoch, earlier?.epoch === epoch ? earlier : undefined));
}

async function verifyOnce(work: TableWork, epoch: number, earlier?: Verification): Promise<Verification> {
  const settled = earlier?.partsLeft ? earlier : nothing;
  const parts = earlier?.partsLeft ? [...earlier.partsLeft, ...behind(earlier, work.tableNames)] : everything(work);
  const inspection = await inspect(work, undefined, parts);
  const { rowsScanned, rowsOld, rowsNew, rowsToUpgrade, rowsSkipped, rowsFailed, failures, namesLeft, partsLeft } = inspection;
  const rowsLeft = rowsOld + rowsToUpgrade;
  return {
    rowsScanned: settled.rowsScanned - settled.rowsLeft + rowsScanned,
    rowsVerified: settled.rowsVerified + rowsNew - rowsToUpgrade,
    rowsSkipped: settled.rowsSkipped + rowsSkipped,
    rowsOld,
    rowsLeft,
    namesLeft,
    partsLeft: partsLeft.length === rowsLeft ? partsLeft : null,
    epoch,
    lastRowIds: highest(settled.lastRowIds, inspection.lastRowIds),
    rowsFailed,
    failures,
  };
}

const nothing = { rowsScanned: 0, rowsVerified: 0, rowsSkipped: 0, rowsLeft: 0, lastRowIds: new Map<string, bigint>() };

function highest(one: ReadonlyMap<string, bigint>, other: ReadonlyMap<string, bigint>): Map<string, bigint> {
  const rowIds = new Map(one);
  for (const [table, rowId] of other) if (rowId > (rowIds.get(table) ?? firstRowId)) rowIds.set(table, rowId);
  return rowIds;
}

function behind({ lastRowIds }: Verification, tableNames: readonly string[]): CoveredPart[] {
  return tableNames.map((table) => ({ table, range: { from: (lastRowIds.get(table) ?? firstRowId - 1n) + 1n, to: lastRowId } }));
}
