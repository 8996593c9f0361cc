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

/** A row as it was read. Columns that are not text, which a damaged row may have, are null. */
export interface EncryptedRow {
  /** In decimal: it may be above 2^53. */
  readonly rowId: string;
  /** What operators name the row by: its id column, or `rowid:<n>` where it has none. */
  readonly id: string;
  /** Of `api_keys` alone, otherwise null. */
  readonly tenantId: string | null;
  readonly name: string | null;
  readonly provider: string | null;
  readonly encryptedValue: string | null;
  readonly iv: string | null;
  readonly authTag: string | null;
}

/** A new ciphertext for a row, to be written only over the one that was read. */
export interface Replacement {
  readonly rowId: string;
  readonly read: CiphertextColumns & BindingColumns;
  readonly sealed: CiphertextColumns;
}

/** What a ciphertext in format 2 is bound to, of `api_keys` alone: it must not change under it. All null where it is bound to nothing. */
interface BindingColumns {
  readonly tenantId: string | null;
  readonly name: string | null;
  readonly provider: string | null;
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

  add({ rowId, read, sealed }: Replacement): void {
    const ciphertext = read.encryptedValue.length > maxComparedCharacters ? '' : read.encryptedValue;
    const binding = JSON.stringify([read.tenantId, read.name, read.provider]).slice(1);
    // By its row id, what was read as one text, and what replaces it. Of these only the binding may hold what JSON has to escape.
    const member = `"${rowId}":["${read.iv} ${read.authTag} ${ciphertext}","${sealed.encryptedValue}","${sealed.iv}","${sealed.authTag}",${binding}`;
    // A character is up to three bytes, and one outside the binding; a separator and an end come with it.
    const mostBytes = member.length + 2 * binding.length + 2;
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

export function decodePage({ cells }: EncryptedPage): EncryptedRow[] {
  return decodeRowsOfTexts(cells).map(toEncryptedRow);
}

function toEncryptedRow(texts: DecodedText[]): EncryptedRow {
  const [rowIdText, id = null, encryptedValue, iv, authTag, tenantId = null, name, provider] = texts;
  const rowId = String(rowIdText);
  const isWhole = typeof name === 'string' && typeof provider === 'string' && (tenantId === null || typeof tenantId === 'string');
  return {
    rowId,
    id: id === null || id === 0 ? `rowid:${rowId}` : id.toString('utf8'),
    tenantId: isWhole ? tenantId : null,
    name: isWhole ? name : null,
    provider: isWhole ? provider : null,
    encryptedValue: whole(encryptedValue),
    iv: whole(iv),
    authTag: whole(authTag),
  };
}

function whole(value: DecodedText | undefined): string | null {
  return typeof value === 'string' ? value : null;
}
