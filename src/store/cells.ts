/**
 * Carries any column value through JSON and back byte for byte, with the database itself encoding and decoding: the client would
 * truncate text at a NUL, and ends the whole process on text that is not UTF-8, which any other program may have written.
 */

import { isAscii, isUtf8 } from 'node:buffer';
import type { Value } from './connection.ts';

/**
 * Null, or printable ASCII text as it is; anything else is its type and value: `text` and `blob` in hex, `integer` and `real` in
 * decimal.
 */
export type Cell =
  | null
  | string
  | { readonly text: string }
  | { readonly integer: string }
  | { readonly real: string }
  | { readonly blob: string };

/** An SQL expression for the cells of these columns, as a JSON array. */
export function encodeCells(columns: readonly string[]): string {
  return ["'['", columns.map(encodeCell).join(" || ',' || "), "']'"].filter((part) => part !== '').join(' || ');
}

function encodeCell(column: string): string {
  const isPrintable = `length(${column}) = length(CAST(${column} AS blob)) AND ${column} NOT GLOB '*[^ -~]*'`;
  return `CASE typeof(${column}) WHEN 'null' THEN 'null'
    WHEN 'integer' THEN '{"integer":"' || ${column} || '"}'
    WHEN 'real' THEN '{"real":"' || CASE ${column} WHEN 9e999 THEN '9e999' WHEN -9e999 THEN '-9e999'
      ELSE format('%!.17g', ${column}) END || '"}'
    WHEN 'blob' THEN '{"blob":"' || lower(hex(${column})) || '"}'
    ELSE CASE WHEN ${isPrintable} THEN json_quote(${column})
      ELSE '{"text":"' || lower(hex(CAST(${column} AS blob))) || '"}' END END`;
}

/** An SQL expression for the value of the cell at `index`, where `cells` is the result of {@link encodeCells}. */
export function decodeCell(cells: string, index: number): string {
  const at = (field: string): string => `${cells}->>'$[${index}]${field}'`;
  return `CASE json_type(${cells}, '$[${index}]') WHEN 'text' THEN ${at('')} WHEN 'object' THEN coalesce(
    CAST(${at('.integer')} AS integer), CAST(${at('.real')} AS real), unhex(${at('.blob')}), CAST(unhex(${at('.text')}) AS text)) END`;
}

/** The name of a row whose id column holds this cell, or null where the cell cannot be shown as a name. */
export function nameOfCell(cell: Cell): string | null {
  if (typeof cell !== 'object' || cell === null) return cell;
  if ('integer' in cell) return cell.integer;
  return 'real' in cell ? cell.real : textOfCell(cell);
}

/** The text of a cell, or null where it is not text. Invalid UTF-8 is replaced. */
export function textOfCell(cell: Cell): string | null {
  if (typeof cell === 'string') return cell;
  return typeof cell === 'object' && cell !== null && 'text' in cell ? Buffer.from(cell.text, 'hex').toString('utf8') : null;
}

/**
 * An SQL expression for the texts of these columns, then the values of these integer expressions, as one JSON value in bytes,
 * which the client neither truncates nor decodes. One value is faster: the client takes longer over each column than SQLite takes
 * over all of them.
 */
export function encodeTexts(columns: readonly string[], integers: readonly string[] = []): string {
  return `CAST(${arrayOf(columns, integers)} AS blob)`;
}

/** The aggregate of {@link encodeTexts} over many rows, for reads by the thousand. */
export function encodeRowsOfTexts(columns: readonly string[]): string {
  return `CAST(json_group_array(${arrayOf(columns, [])}) AS blob)`;
}

function arrayOf(columns: readonly string[], integers: readonly string[]): string {
  // SQLite sorts blobs after all other types, so only a blob is >= x''; a null compares as null.
  const texts = columns.map((column) => `CASE WHEN ${column} >= x'' THEN 0 ELSE CAST(${column} AS text) END`);
  const numbers = integers.map((expression) => `CAST(${expression} AS integer)`);
  return `json_array(${[...texts, ...numbers].join(', ')})`;
}

/** 0 stands for bytes where text was expected. */
type CodedText = string | 0 | null;

/** A Buffer stands for text that is not valid UTF-8. */
export type DecodedText = CodedText | Buffer;

/** Decodes a row encoded by {@link encodeTexts}: its texts, then `integers` integers. */
export function decodeTexts(cells: Value | undefined, integers = 0): { texts: DecodedText[]; integers: (number | null)[] } {
  const bytes = toBuffer(cells);
  const values = parse(bytes) as CodedText[];
  const numbers = values.splice(values.length - integers) as (number | null)[];
  return { texts: isAscii(bytes) ? values : values.map(decodeText), integers: numbers };
}

/** Decodes the texts of each row encoded by {@link encodeRowsOfTexts}. */
export function decodeRowsOfTexts(cells: Value | undefined): DecodedText[][] {
  const bytes = toBuffer(cells);
  const rows = parse(bytes) as CodedText[][];
  return isAscii(bytes) ? rows : rows.map((row) => row.map(decodeText));
}

/** SQLite's JSON is ASCII except for the texts; latin1 carries their bytes over one by one. */
function parse(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString('latin1'));
}

function decodeText(text: CodedText): DecodedText {
  if (typeof text !== 'string') return text;
  const bytes = Buffer.from(text, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : bytes;
}

/** The bytes of a column that the statement casts to blob. */
export function toBuffer(value: Value | undefined): Buffer {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer) return Buffer.from(value);
  throw new TypeError('The column is no bytes.');
}
