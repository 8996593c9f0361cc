/**
 * Carries any value of a column through JSON and back byte for byte, coded and decoded by the database itself: the client
 * would cut text at a NUL, and ends the whole process at text that is no UTF-8, which any other program may have written.
 */

import { isAscii, isUtf8 } from 'node:buffer';
import type { Value } from './connection.ts';

/**
 * Null, or text of printable ASCII as it is; otherwise its type and its value: `text` and `blob` in hex, `integer` and
 * `real` in decimal.
 */
export type Cell =
  | null
  | string
  | { readonly text: string }
  | { readonly integer: string }
  | { readonly real: string }
  | { readonly blob: string };

/** An SQL expression: the JSON of the cells of these columns, as an array. */
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

/** An SQL expression: the value of one cell of an expression that {@link encodeCells} made. */
export function decodeCell(cells: string, index: number): string {
  const at = (field: string): string => `${cells}->>'$[${index}]${field}'`;
  return `CASE json_type(${cells}, '$[${index}]') WHEN 'text' THEN ${at('')} WHEN 'object' THEN coalesce(
    CAST(${at('.integer')} AS integer), CAST(${at('.real')} AS real), unhex(${at('.blob')}), CAST(unhex(${at('.text')}) AS text)) END`;
}

/** What people call a row whose id this is, or null where it has none that can be said. */
export function nameOfCell(cell: Cell | undefined): string | null {
  if (typeof cell !== 'object' || cell === null) return cell ?? null;
  if ('integer' in cell) return cell.integer;
  return 'real' in cell ? cell.real : textOfCell(cell);
}

/** The text of a cell, or null where it is not text. What is no UTF-8 is replaced in it. */
export function textOfCell(cell: Cell | undefined): string | null {
  if (typeof cell === 'string') return cell;
  return typeof cell === 'object' && cell !== null && 'text' in cell ? Buffer.from(cell.text, 'hex').toString('utf8') : null;
}

/**
 * An SQL expression: the texts of these columns, and then the values of these integer expressions, as one JSON value in bytes,
 * which the client neither cuts nor looks into. It takes longer over each column than SQLite over all of them.
 */
export function encodeTexts(columns: readonly string[], integers: readonly string[] = []): string {
  return `CAST(${arrayOf(columns, integers)} AS blob)`;
}

/** An aggregate of them, for rows that are read by the thousand. */
export function encodeRowsOfTexts(columns: readonly string[]): string {
  return `CAST(json_group_array(${arrayOf(columns, [])}) AS blob)`;
}

function arrayOf(columns: readonly string[], integers: readonly string[]): string {
  // Only bytes are not below no bytes; null is neither.
  const texts = columns.map((column) => `CASE WHEN ${column} >= x'' THEN 0 ELSE CAST(${column} AS text) END`);
  const numbers = integers.map((expression) => `CAST(${expression} AS integer)`);
  return `json_array(${[...texts, ...numbers].join(', ')})`;
}

/** Bytes in place of text are 0. */
type CodedText = string | 0 | null;

/** A Buffer stands for text that is no UTF-8. */
export type DecodedText = CodedText | Buffer;

/** What {@link encodeTexts} made of a row: its texts, and so many integers. */
export function decodeTexts(cells: Value | undefined, integers = 0): { texts: DecodedText[]; integers: (number | null)[] } {
  const bytes = toBuffer(cells);
  const values = parse(bytes) as CodedText[];
  const numbers = values.splice(values.length - integers) as (number | null)[];
  return { texts: isAscii(bytes) ? values : values.map(decodeText), integers: numbers };
}

/** The texts of each row that {@link encodeRowsOfTexts} was given. */
export function decodeRowsOfTexts(cells: Value | undefined): DecodedText[][] {
  const bytes = toBuffer(cells);
  const rows = parse(bytes) as CodedText[][];
  return isAscii(bytes) ? rows : rows.map((row) => row.map(decodeText));
}

/** SQLite's JSON is ASCII but for the texts, whose bytes are carried over one by one. */
function parse(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString('latin1'));
}

function decodeText(text: CodedText): DecodedText {
  if (typeof text !== 'string') return text;
  const bytes = Buffer.from(text, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : bytes;
}

/** The bytes of a column that the statement casts to them. */
export function toBuffer(value: Value | undefined): Buffer {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer) return Buffer.from(value);
  throw new TypeError('The column is no bytes.');
}
