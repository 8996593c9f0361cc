/** Decides for each row, by opening it, what a rotation must do with it; and seals rows anew. */

import type { Keyring, OpenedRow } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { formatOf, openRow, sealRow } from '../crypto/row.ts';
import { openCoveredRow, openCoveredRowWith, type RowFailure, reasonOf } from '../keys/covered-rows.ts';
import type { EncryptedRow, Replacement } from '../store/encrypted-rows.ts';
import { nameOfSkipped } from '../store/rotation-record.ts';
import type { RotationPlan } from './plan.ts';

/** The part of the plan that concerns rows. */
export type RowsPlan = Pick<RotationPlan, 'from' | 'to' | 'upgradeFormat' | 'skippedRows' | 'isSwitched'>;

export type RowClass =
  | { readonly kind: 'skipped' }
  /** Under the old key, or under the new one in a format to be upgraded; after the switch, under any key of the keyring. */
  | { readonly kind: 'to_rotate'; readonly key: 'old' | 'new' | 'other'; readonly plaintext: Buffer }
  | { readonly kind: 'rotated' }
  | { readonly kind: 'failed'; readonly failure: RowFailure };

export class RowClassifier {
  readonly #plan: RowsPlan;
  readonly #keyring: Keyring;
  readonly #skipped: ReadonlySet<string>;
  #lastKey: MasterKey;

  constructor(plan: RowsPlan, keyring: Keyring) {
    this.#plan = plan;
    this.#keyring = keyring;
    this.#lastKey = plan.from ?? plan.to;
    this.#skipped = new Set(plan.skippedRows.map(nameOfSkipped));
  }

  /** A row to rotate comes with its plaintext, which the caller must wipe. */
  classify(table: string, row: EncryptedRow): RowClass {
    if (this.#skipped.size > 0 && this.#skipped.has(nameOfSkipped({ table, id: row.id }))) return { kind: 'skipped' };
    const opened = this.#open(row);
    if (opened === null) return { kind: 'failed', failure: this.#failure(table, row) };
    const { from, to } = this.#plan;
    const key = opened.key === to ? 'new' : opened.key === from ? 'old' : 'other';
    if (key !== 'new' || this.#isToUpgrade(row)) return { kind: 'to_rotate', key, plaintext: opened.plaintext };
    opened.plaintext.fill(0);
    return { kind: 'rotated' };
  }

  /** Seals a row's plaintext under the new key, checks that it opens again, and wipes it. */
  seal({ rowId, ciphertext: read, binding: place }: EncryptedRow, plaintext: Buffer): Replacement {
    const { to, upgradeFormat } = this.#plan;
    if (read === null) throw new Error('A malformed row cannot have been opened.');
    const binding = upgradeFormat || formatOf(read) === 2 ? place : null;
    const sealed = sealRow(to, binding, plaintext);
    const reopened = openRow(to, binding, sealed);
    const isSame = reopened?.equals(plaintext) === true;
    reopened?.fill(0);
    plaintext.fill(0);
    if (!isSame) throw new Error('A row that was sealed does not open again; nothing of it was written.');
    return { rowId, read, binding, sealed };
  }

  /**
   * Rows under one key tend to be adjacent, so the last key that worked is tried first. Before the switch a row under a third key
   * is left for the operator to explain; after it there is no way back, and any row that opens is rotated.
   */
  #open(row: EncryptedRow): OpenedRow | null {
    for (const key of [this.#lastKey, this.#lastKey === this.#plan.to ? this.#plan.from : this.#plan.to]) {
      const plaintext = key === null ? null : openCoveredRowWith(key, row);
      if (key === null || plaintext === null) continue;
      this.#lastKey = key;
      return { key, plaintext };
    }
    return this.#plan.isSwitched ? openCoveredRow(this.#keyring, row) : null;
  }

  #isToUpgrade({ ciphertext, binding }: EncryptedRow): boolean {
    return this.#plan.upgradeFormat && binding !== null && ciphertext !== null && formatOf(ciphertext) === 1;
  }

  #failure(table: string, row: EncryptedRow): RowFailure {
    const opened = openCoveredRow(this.#keyring, row);
    if (opened === null) return { table, id: row.id, reason: reasonOf(row) };
    opened.plaintext.fill(0);
    return { table, id: row.id, reason: 'other_key', keyId: opened.key.id };
  }
}
