/** The rows of the covered tables outside the database: as they were read, and as they are to be put back. */

import { type DecodedText, decodeRowsOfTexts } from './cells.ts';

/** The one table whose rows the vault itself writes, in format 2 and with a key id. */
export const apiKeysTable = 'api_keys';

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
  readonly tags: string;
}

/** Of one argument, which a libSQL server takes up to 5,000,000 bytes of. */
const maxArgumentBytes = 3_000_000;
/** In hex. Of a longer ciphertext old and new would not fit into one argument: its IV and its tag say that it is what was read. */
export const maxComparedCharacters = maxArgumentBytes / 2;

/** The replacements as `replaceStatement` takes them: as few pieces as their size allows. */
export function replaceArguments(replacements: readonly Replacement[]): string[] {
  return inObjects(replacements.map(toMember));
}

/** By its row id, what was read as one text, and what replaces it. Of these only the binding may hold what JSON has to escape. */
function toMember({ rowId, read, sealed }: Replacement): string {
  const ciphertext = read.encryptedValue.length > maxComparedCharacters ? '' : read.encryptedValue;
  const binding = `${JSON.stringify(read.tenantId)},${JSON.stringify(read.name)},${JSON.stringify(read.provider)}`;
  const replacement = `"${sealed.encryptedValue}","${sealed.iv}","${sealed.authTag}"`;
  return `"${rowId}":["${read.iv} ${read.authTag} ${ciphertext}",${replacement},${binding}]`;
}

/** Joins JSON members into as few objects as their size allows. */
function inObjects(members: readonly string[]): string[] {
  const groups: string[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const member of members) {
    bytes += Buffer.byteLength(member) + 1;
    if (bytes > maxArgumentBytes) {
      groups.push([]);
      bytes = Buffer.byteLength(member) + 1;
    }
    groups.at(-1)?.push(member);
  }
  return groups.map((group) => `{${group.join(',')}}`);
}

export function decodePage({ cells }: EncryptedPage): EncryptedRow[] {
  return decodeRowsOfTexts(cells).map(toEncryptedRow);
}

function toEncryptedRow([rowIdText, id = null, encryptedValue, iv, authTag, ...binding]: DecodedText[]): EncryptedRow {
  const rowId = String(rowIdText);
  return {
    rowId,
    id: id === null || (id instanceof Buffer && id.length === 0) ? `rowid:${rowId}` : id.toString('utf8'),
    encryptedValue: whole(encryptedValue),
    iv: whole(iv),
    authTag: whole(authTag),
    ...toBinding(binding),
  };
}

function toBinding(texts: readonly DecodedText[]): BindingColumns {
  const [tenantId = null, name = null, provider = null] = texts.map(whole);
  const isWhole = name !== null && provider !== null && (tenantId !== null || texts[0] === null);
  return isWhole ? { tenantId, name, provider } : { tenantId: null, name: null, provider: null };
}

function whole(value: DecodedText | undefined): string | null {
  return typeof value === 'string' ? value : null;
}
