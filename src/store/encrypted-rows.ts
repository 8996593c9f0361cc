/** The rows of the covered tables outside the database: as they were read, and as they are to be put back. */

import { type DecodedText, decodeRowsOfTexts } from './cells.ts';
import { TextBytes } from './text-bytes.ts';

/** The one table whose rows the vault itself writes, in format 2 and with a key id. */
export const apiKeysTable = 'api_keys';

/** What a row of any covered table has, in the order in which they are read. */
export const ciphertextColumns = ['encrypted_value', 'iv', 'auth_tag'] as const;
/** What format 2 is bound to beside them, of `api_keys` alone. */
export const bindingColumns = ['tenant_id', 'name', 'provider'] as const;

/** As many rows are read at once, where they are not large. */
export const pageRows = 1_000;

/** Row ids, both ends included. */
export interface RowIdRange {
  readonly from: bigint;
  readonly to: bigint;
}

/** Rows as they were read, for {@link decodePage}: it may take place on another thread. */
export interface EncryptedPage {
  readonly table: string;
  /** What they are all rows of; to the last of them. */
  readonly range: RowIdRange;
  readonly rows: number;
  readonly cells: Uint8Array;
}

/** A row as it was read. */
export interface EncryptedRow {
  /** In decimal: it may be above 2^53. */
  readonly rowId: string;
  /** What operators name the row by: its id column, or `rowid:<n>` where it has none. */
  readonly id: string;
  /** Null where one of its columns is not text, as in a damaged row. */
  readonly ciphertext: CiphertextColumns | null;
  /** Null where one of its columns is not text, and of other tables than `api_keys`, whose rows are in format 1 alone. */
  readonly binding: BindingColumns | null;
}

/** A new ciphertext for a row, to be written only over the one that was read. */
export interface Replacement {
  readonly rowId: string;
  readonly read: CiphertextColumns;
  /** What the new one is bound to, which must not change under it; null where it is bound to nothing. */
  readonly binding: Omit<BindingColumns, 'table'> | null;
  readonly sealed: CiphertextColumns;
}

/** What a ciphertext in format 2 is bound to. */
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

/** Rows that a table must hold, each with its tag; null: whatever its tag. */
export interface ExpectedRows {
  readonly rows: number;
  /** JSON: an array of `[rowId, authTag]`. */
  readonly tags: Uint8Array;
}

/** Of one argument, which a libSQL server takes up to 5,000,000 bytes of. */
const maxArgumentBytes = 3_000_000;
/** In hex. Of a longer ciphertext old and new would not fit into one argument: its IV and its tag say that it is what was read. */
export const maxComparedCharacters = maxArgumentBytes / 2;

/** Puts replacements down as `replaceStatement` takes them: JSON objects, as few as their size allows. */
export class ReplacementWriter {
  readonly #text = new TextBytes();
  readonly #pieces: Uint8Array[] = [];

  add({ rowId, read, binding, sealed }: Replacement): void {
    const ciphertext = read.encryptedValue.length > maxComparedCharacters ? '' : read.encryptedValue;
    const bound = JSON.stringify([binding?.tenantId ?? null, binding?.name ?? null, binding?.provider ?? null]).slice(1);
    // By its row id, what was read as one text, and what replaces it. Of these only the binding may hold what JSON has to escape.
    const member = `"${rowId}":["${read.iv} ${read.authTag} ${ciphertext}","${sealed.encryptedValue}","${sealed.iv}","${sealed.authTag}",${bound}`;
    // A character is up to three bytes, and one outside the binding; a separator and an end come with it.
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
