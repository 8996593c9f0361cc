/** Rows of the covered tables outside the database: as they were read, and as they are to be written back. */

import { TextBytes } from '../runtime/text-bytes.ts';
import { type DecodedText, decodeRowsOfTexts } from './cells.ts';

/** The only table whose rows the vault itself writes, in format 2 and with a key id. */
export const apiKeysTable = 'api_keys';

/** The ciphertext columns of every covered table, in the order in which they are read. */
export const ciphertextColumns = ['encrypted_value', 'iv', 'auth_tag'] as const;
/** The other columns that format 2 binds a ciphertext to; only `api_keys` has them. */
export const bindingColumns = ['tenant_id', 'name', 'provider'] as const;

/** Rows read at once, unless they are large. */
export const pageRows = 1_000;

/** A range of row ids, both ends included. */
export interface RowIdRange {
  readonly from: bigint;
  readonly to: bigint;
}

/** Rows as they were read, still encoded: {@link decodePage} may run on another thread. */
export interface EncryptedPage {
  readonly table: string;
  /** Holds every row of this range; it ends with the last of them. */
  readonly range: RowIdRange;
  readonly rows: number;
  readonly cells: Uint8Array;
}

export interface EncryptedRow {
  /** In decimal, since it may be above 2^53. */
  readonly rowId: string;
  /** The name of the row for operators: its id column, or `rowid:<n>` if it has none. */
  readonly id: string;
  /** Null if one of the columns is not text, as in a damaged row. */
  readonly ciphertext: CiphertextColumns | null;
  /** Null if one of the columns is not text, and in tables other than `api_keys`, whose rows are always in format 1. */
  readonly binding: BindingColumns | null;
}

/** A new ciphertext for a row, to be written only over the one that was read. */
export interface Replacement {
  readonly rowId: string;
  readonly read: CiphertextColumns;
  /** What the new ciphertext is bound to; it must not have changed in the row. Null if it is bound to nothing. */
  readonly binding: Omit<BindingColumns, 'table'> | null;
  readonly sealed: CiphertextColumns;
}

/** The values that a ciphertext in format 2 is bound to. */
interface BindingColumns {
  readonly table: string;
  readonly tenantId: string | null;
  readonly name: string;
  readonly provider: string;
}

interface CiphertextColumns {
  readonly encryptedValue: string;
  readonly iv: string;
  readonly authTag: string;
}

/** Rows that a table must still hold, each with its authentication tag; a null tag stands for any. */
export interface ExpectedRows {
  readonly rows: number;
  /** JSON: an array of `[rowId, authTag]`. */
  readonly tags: Uint8Array;
}

/** Limit for one argument, of which a libSQL server takes up to 5,000,000 bytes. */
const maxArgumentBytes = 3_000_000;
/**
 * In hex characters. Above this, old and new ciphertext do not fit into one argument, and only the IV and tag identify what was
 * read.
 */
export const maxComparedCharacters = maxArgumentBytes / 2;

/** Encodes replacements for `replaceStatement` as JSON objects, in as few pieces as the size limit allows. */
export class ReplacementWriter {
  readonly #text = new TextBytes();
  readonly #pieces: Uint8Array[] = [];

  add({ rowId, read, binding, sealed }: Replacement): void {
    const ciphertext = read.encryptedValue.length > maxComparedCharacters ? '' : read.encryptedValue;
    const bound = JSON.stringify([binding?.tenantId ?? null, binding?.name ?? null, binding?.provider ?? null]).slice(1);
    // Keyed by row id: what was read, as one text, then what replaces it. Only the binding may hold characters that JSON must
    // escape.
    const member = `"${rowId}":["${read.iv} ${read.authTag} ${ciphertext}","${sealed.encryptedValue}","${sealed.iv}","${sealed.authTag}",${bound}`;
    // A character of the binding takes up to three bytes, any other takes one; two more for the separator and the closing brace.
    const mostBytes = member.length + 2 * bound.length + 2;
    if (this.#text.length + mostBytes > maxArgumentBytes) this.#endPiece();
    this.#text.append(`${this.#text.length === 0 ? '{' : ','}${member}`);
  }

  finish(): Uint8Array[] {
    this.#endPiece();
    return this.#pieces;
  }

  #endPiece(): void {
    if (this.#text.length === 0) return;
    this.#text.append('}');
    this.#pieces.push(this.#text.take());
  }
}

export function decodePage({ table, cells }: EncryptedPage): EncryptedRow[] {
  return decodeRowsOfTexts(cells).map((texts) => toEncryptedRow(table, texts));
}

function toEncryptedRow(table: string, texts: DecodedText[]): EncryptedRow {
  const [rowIdText, id = null, encryptedValue, iv, authTag, tenantId, name, provider] = texts;
  const rowId = String(rowIdText);
  const isBound = (tenantId === null || isText(tenantId)) && isText(name) && isText(provider);
  return {
    rowId,
    id: id === null || id === 0 ? `rowid:${rowId}` : id.toString('utf8'),
    ciphertext: isText(encryptedValue) && isText(iv) && isText(authTag) ? { encryptedValue, iv, authTag } : null,
    binding: isBound ? { table, tenantId, name, provider } : null,
  };
}

function isText(value: DecodedText | undefined): value is string {
  return typeof value === 'string';
}
