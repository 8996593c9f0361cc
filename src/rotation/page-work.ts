/** What a rotation does with the rows of one page, without the database, so that it can run on any thread. */

import type { Keyring } from '../crypto/keyring.ts';
import { maxListedFailures, type RowFailure } from '../keys/covered-rows.ts';
import { TextBytes } from '../runtime/text-bytes.ts';
import { type Throttle, unthrottled } from '../runtime/throttle.ts';
import {
  decodePage,
  type EncryptedPage,
  type EncryptedRow,
  type ExpectedRows,
  ReplacementWriter,
  type RowIdRange,
} from '../store/encrypted-rows.ts';
import { type RowClass, RowClassifier, type RowsPlan } from './classify.ts';

/** How many rows a page's report lists. Beyond that, reading the whole page again is faster than reading each row. */
export const maxListedLeft = 20;

export interface RowCounts {
  readonly rowsOld: number;
  /** The part of `rowsOld` under neither of the two keys; such rows are rotated all the same after the switch. */
  readonly rowsOther: number;
  readonly rowsNew: number;
  /** Rows under the new key that are still to be rewritten in format 2. */
  readonly rowsToUpgrade: number;
  readonly rowsSkipped: number;
  readonly rowsFailed: number;
  /** The first {@link maxListedFailures}. */
  readonly failures: readonly RowFailure[];
  /** In hex characters. */
  readonly ciphertextCharacters: number;
}

export const noRows = {
  rowsOld: 0,
  rowsOther: 0,
  rowsNew: 0,
  rowsToUpgrade: 0,
  rowsSkipped: 0,
  rowsFailed: 0,
  ciphertextCharacters: 0,
};

export interface PageReport extends RowCounts {
  readonly table: string;
  readonly rows: number;
  /** The range that the rows were read from. */
  readonly range: RowIdRange;
  /** The first {@link maxListedLeft} of the rows that are to be rotated. */
  readonly rowsLeft: readonly Pick<EncryptedRow, 'rowId' | 'id'>[];
  /** Null unless sealing was requested. */
  readonly sealed: SealedPage | null;
}

/** A page's rows, sealed under the new key. */
export interface SealedPage {
  readonly table: string;
  /** The range that the rows were read from. */
  readonly range: RowIdRange;
  readonly rowsRotated: number;
  readonly rowsFailed: number;
  /** For `replaceStatement`. */
  readonly replacements: readonly Uint8Array[];
  /** What the table must hold of this page once the replacements are written. */
  readonly expected: ExpectedRows;
}

export class PageWork {
  readonly #classifier: RowClassifier;

  constructor(plan: RowsPlan, keyring: Keyring) {
    this.#classifier = new RowClassifier(plan, keyring);
  }

  /** Opens the rows of a page and, if `isToSeal`, seals those to be rotated. `throttle` is called after each row. */
  work(page: EncryptedPage, isToSeal: boolean, throttle: Throttle = unthrottled): PageReport {
    const { table, rows, range } = page;
    const counts = { ...noRows };
    const failures: RowFailure[] = [];
    const rowsLeft: Pick<EncryptedRow, 'rowId' | 'id'>[] = [];
    const sealing = isToSeal ? new PageSealing(this.#classifier, page) : null;
    for (const row of decodePage(page)) {
      counts.ciphertextCharacters += row.ciphertext?.encryptedValue.length ?? 0;
      const rowClass = this.#classifier.classify(table, row);
      count(counts, rowClass);
      if (rowClass.kind === 'failed' && failures.length < maxListedFailures) failures.push(rowClass.failure);
      sealing?.add(row, rowClass);
      if (rowClass.kind === 'to_rotate') {
        rowClass.plaintext.fill(0);
        if (rowsLeft.length < maxListedLeft) rowsLeft.push({ rowId: row.rowId, id: row.id });
      }
      throttle();
    }
    const sealed = sealing?.finish(counts.rowsFailed) ?? null;
    return { table, rows, range, ...counts, failures, rowsLeft, sealed };
  }
}

class PageSealing {
  readonly #classifier: RowClassifier;
  readonly #page: EncryptedPage;
  readonly #replacements = new ReplacementWriter();
  readonly #tags = new TextBytes();
  #rowsRotated = 0;

  constructor(classifier: RowClassifier, page: EncryptedPage) {
    this.#classifier = classifier;
    this.#page = page;
  }

  add(row: EncryptedRow, rowClass: RowClass): void {
    let authTag = rowClass.kind === 'rotated' && row.ciphertext ? row.ciphertext.authTag : null;
    if (rowClass.kind === 'to_rotate') {
      const replacement = this.#classifier.seal(row, rowClass.plaintext);
      this.#replacements.add(replacement);
      this.#rowsRotated += 1;
      ({ authTag } = replacement.sealed);
    }
    // Digits and hex need no escaping.
    this.#tags.append(`${this.#tags.length === 0 ? '[' : ','}["${row.rowId}",${authTag === null ? 'null' : `"${authTag}"`}]`);
  }

  finish(rowsFailed: number): SealedPage {
    const { table, range, rows } = this.#page;
    this.#tags.append(']');
    const expected = { rows, tags: this.#tags.take() };
    return { table, range, rowsRotated: this.#rowsRotated, rowsFailed, replacements: this.#replacements.finish(), expected };
  }
}

type Counts = { -readonly [Count in Exclude<keyof RowCounts, 'failures' | 'ciphertextCharacters'>]: number };

function count(counts: Counts, rowClass: RowClass): void {
  if (rowClass.kind === 'skipped') counts.rowsSkipped += 1;
  else if (rowClass.kind === 'failed') counts.rowsFailed += 1;
  else if (rowClass.kind === 'to_rotate' && rowClass.key !== 'new') counts.rowsOld += 1;
  else counts.rowsNew += 1;
  if (rowClass.kind !== 'to_rotate') return;
  if (rowClass.key === 'other') counts.rowsOther += 1;
  if (rowClass.key === 'new') counts.rowsToUpgrade += 1;
}
