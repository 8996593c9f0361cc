/**
 * The decrypt gate: every row of every covered table is opened before anything is written, and the rotation continues only if all
 * of them open.
 */

import { DecryptGateFailedError } from '../errors.ts';
import { assertNothingUncovered, inspectCoverage, rowsOf } from '../keys/coverage.ts';
import { coveredPages } from '../keys/covered-rows.ts';
import type { EncryptedPage } from '../store/encrypted-rows.ts';
import { everything, type Inspection, inspect, type TableWork } from './inspection.ts';

/**
 * Limit for the pages as read. Sealed, they hold old and new ciphertext, about twice as much, and are kept until they are
 * written.
 */
const maxSealedBytes = 16 * 1024 * 1024;

/**
 * Selects the pages that the gate seals as well, so that they need not be read and opened again: as many as fit into bounded
 * memory.
 */
export function sealsFirstPages(): (page: EncryptedPage) => boolean {
  let bytes = 0;
  return ({ cells }) => {
    bytes += cells.length;
    return bytes <= maxSealedBytes;
  };
}

/**
 * Opens every row. Each pass gets its own `isToSeal` from `sealing`. Throws UncoveredTableError if rows would be left behind, and
 * StorageUnavailableError.
 */
export async function openAllRows(
  work: TableWork,
  sealing: () => (page: EncryptedPage) => boolean = () => () => false,
): Promise<Inspection> {
  const { tables, coverage, workers, progress } = work;
  const found = await inspectCoverage(tables, coverage);
  assertNothingUncovered(found);
  progress.begin(rowsOf(found));
  return tables.pass(() => inspect(work, workers.work(coveredPages(tables, everything(work)), sealing())));
}

/** Throws DecryptGateFailedError, which names the failing rows. */
export function assertPassed({ rowsScanned, rowsFailed, failures }: Inspection): void {
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
