/** What a rotation does with the rows of one page, without the database: on whichever thread. */

import type { Keyring } from '../crypto/keyring.ts';
import { maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import { decodePage, type EncryptedPage, type ExpectedRow, type Replacement, replaceArguments } from '../store/encrypted-rows.ts';
import { type RowClass, RowClassifier, type RowsPlan } from './classify.ts';

/** What opening rows has shown. */
export interface RowCounts {
  readonly rowsOld: number;
  readonly rowsNew: number;
  /** Those of the new key that are to be written all the same, in format 2. */
  readonly rowsToUpgrade: number;
  readonly rowsSkipped: number;
  readonly rowsFailed: number;
  /** The first {@link maxListedFailures}. */
  readonly failures: readonly RowFailure[];
  /** In hex. */
  readonly ciphertextCharacters: number;
}

export interface PageReport extends RowCounts {
  readonly table: string;
  readonly rows: number;
}

/** A page's rows under the new key. */
export interface SealedPage {
  readonly table: string;
  readonly rows: number;
  readonly rowsRotated: number;
  readonly rowsFailed: number;
  /** For `replaceStatement`. */
  readonly replacements: readonly string[];
  /** What the table holds of this page once they are written. */
  readonly expected: readonly ExpectedRow[];
}

export class PageWork {
  readonly #classifier: RowClassifier;

  constructor(plan: RowsPlan, keyring: Keyring) {
    this.#classifier = new RowClassifier(plan, keyring);
  }

  inspect(page: EncryptedPage): PageReport {
    const report = { rowsOld: 0, rowsNew: 0, rowsToUpgrade: 0, rowsSkipped: 0, rowsFailed: 0, ciphertextCharacters: 0 };
    const failures: RowFailure[] = [];
    for (const row of decodePage(page)) {
      report.ciphertextCharacters += row.encryptedValue?.length ?? 0;
      const rowClass = this.#classifier.classify(page.table, row);
      count(report, rowClass);
      if (rowClass.kind === 'to_rotate') rowClass.plaintext.fill(0);
      if (rowClass.kind === 'failed' && failures.length < maxListedFailures) failures.push(rowClass.failure);
    }
    return { table: page.table, rows: page.rows, ...report, failures };
  }

  seal({ table, rows, cells }: EncryptedPage): SealedPage {
    const replacements: Replacement[] = [];
    const expected: ExpectedRow[] = [];
    let rowsFailed = 0;
    for (const row of decodePage({ table, rows, cells })) {
      const rowClass = this.#classifier.classify(table, row);
      if (rowClass.kind === 'to_rotate') {
        const replacement = this.#classifier.seal(table, row, rowClass.plaintext);
        replacements.push(replacement);
        expected.push([row.rowId, replacement.sealed.authTag]);
      } else {
        if (rowClass.kind === 'failed') rowsFailed += 1;
        expected.push([row.rowId, rowClass.kind === 'rotated' ? row.authTag : null]);
      }
    }
    const rowsRotated = replacements.length;
    return { table, rows, rowsRotated, rowsFailed, replacements: replaceArguments(replacements), expected };
  }
}

type Counts = { -readonly [Count in Exclude<keyof RowCounts, 'failures' | 'ciphertextCharacters'>]: number };

function count(counts: Counts, rowClass: RowClass): void {
  if (rowClass.kind === 'skipped') counts.rowsSkipped += 1;
  else if (rowClass.kind === 'failed') counts.rowsFailed += 1;
  else if (rowClass.kind === 'to_rotate' && !rowClass.isUnderNewKey) counts.rowsOld += 1;
  else counts.rowsNew += 1;
  if (rowClass.kind === 'to_rotate' && rowClass.isUnderNewKey) counts.rowsToUpgrade += 1;
}
