/** The decrypt gate: every row of every covered table has been opened before anything is written, and it lets pass only if all open. */

import { DecryptGateFailedError } from '../errors.ts';
import type { Inspection } from './inspection.ts';

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
