/** Iterates over the rows of the covered tables in bounded memory, leaving the event loop free between pages, and opens them. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Keyring, OpenedRow } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { openRow, rowFormatOf } from '../crypto/row.ts';
import { decodePage, type EncryptedPage, type EncryptedRow, type RowIdRange } from '../store/encrypted-rows.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';

export type FailureReason = 'other_key' | 'unknown_key_or_corrupt' | 'malformed';

/** A row that does not open as it should. */
export interface RowFailure {
  readonly table: string;
  readonly id: string;
  readonly reason: FailureReason;
  /** With `other_key`: the key of the keyring that does open it. */
  readonly keyId?: string;
}

const rowsOfTurn = 50;
/** How many failures are listed individually; all are counted. */
export const maxListedFailures = 1_000;

/** A table, or a range of its rows. */
export interface CoveredPart {
  readonly table: string;
  readonly range?: RowIdRange;
}

/** Yields every page of every table, one table after the other. */
export async function* coveredPages(tables: EncryptedTables, covered: readonly CoveredPart[]): AsyncGenerator<EncryptedPage> {
  for (const { table, range } of covered) {
    for await (const page of tables.pages(table, range)) {
      yield page;
      await nextTurn();
    }
  }
}

/** Row by row, with turns of the event loop for requests in between: a page takes as long as a hundred requests. */
export async function* coveredRows(
  tables: EncryptedTables,
  covered: readonly CoveredPart[],
): AsyncGenerator<{ table: string; row: EncryptedRow }> {
  let rows = 0;
  for await (const page of coveredPages(tables, covered)) {
    for (const row of decodePage(page)) {
      rows += 1;
      if (rows % rowsOfTurn === 0) await nextTurn();
      yield { table: page.table, row };
    }
  }
}

/** The parts of a row that decide whether it opens. */
type OpeningRow = Pick<EncryptedRow, 'ciphertext' | 'binding'>;

export function openCoveredRow(keyring: Keyring, { ciphertext, binding }: OpeningRow): OpenedRow | null {
  return ciphertext && keyring.openRow(binding, ciphertext, null);
}

export function openCoveredRowWith(key: MasterKey, { ciphertext, binding }: OpeningRow): Buffer | null {
  return ciphertext && openRow(key, binding, ciphertext);
}

/** Why a row does not open that {@link openCoveredRow} refused. */
export function reasonOf({ ciphertext }: Pick<EncryptedRow, 'ciphertext'>): FailureReason {
  return ciphertext === null || rowFormatOf(ciphertext) === null ? 'malformed' : 'unknown_key_or_corrupt';
}
