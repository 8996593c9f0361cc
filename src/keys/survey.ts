/** Opens every covered row with the keyring: the only reliable count of the rows under each key. */

import type { Keyring } from '../crypto/keyring.ts';
import { rowFormatOf } from '../crypto/row.ts';
import { type Throttle, unthrottled } from '../runtime/throttle.ts';
import { apiKeysTable } from '../store/encrypted-rows.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import { type CoverageSettings, inspectCoverage } from './coverage.ts';
import { coveredRows, maxListedFailures, openCoveredRow, type RowFailure, reasonOf } from './covered-rows.ts';

export interface Survey {
  readonly rowsScanned: number;
  readonly rowsByKeyId: ReadonlyMap<string, number>;
  readonly rowsFailed: number;
  /** Rows of `api_keys` only, whether or not they open. */
  readonly rowsOfFormat1: number;
  /** The first {@link maxListedFailures}. */
  readonly failures: readonly RowFailure[];
}

/** Surveys the covered tables that exist. Throws what `throttle` throws, and StorageUnavailableError. */
export function survey(
  tables: EncryptedTables,
  settings: CoverageSettings,
  keyring: Keyring,
  throttle: Throttle = unthrottled,
): Promise<Survey> {
  return tables.pass(async () => {
    let [rowsScanned, rowsFailed, rowsOfFormat1] = [0, 0, 0];
    const rowsByKeyId = new Map<string, number>();
    const failures: RowFailure[] = [];
    const { covered } = await inspectCoverage(tables, settings, 1);
    for await (const { table, row } of coveredRows(tables, covered)) {
      rowsScanned += 1;
      if (table === apiKeysTable && row.ciphertext !== null && rowFormatOf(row.ciphertext) === 1) rowsOfFormat1 += 1;
      const opened = openCoveredRow(keyring, row);
      if (opened === null) {
        rowsFailed += 1;
        if (failures.length < maxListedFailures) failures.push({ table, id: row.id, reason: reasonOf(row) });
      } else {
        opened.plaintext.fill(0);
        rowsByKeyId.set(opened.key.id, (rowsByKeyId.get(opened.key.id) ?? 0) + 1);
      }
      throttle();
    }
    return { rowsScanned, rowsByKeyId, rowsFailed, rowsOfFormat1, failures };
  });
}
