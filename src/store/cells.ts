/**
 * Carries any value of a column through JSON and back byte for byte, coded and decoded by the database itself: the client
 * would cut text at a NUL, and ends the whole process at text that is no UTF-8, which any other program may have written.
 */

import { isUtf8 } from 'node:buffer';

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
  return `'[' || ${columns.map(encodeCell).join(" || ',' || ")} || ']'`;
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
 * An SQL expression for rows that are read by the thousand: the texts of these columns as one JSON value. The client takes
 * longer over each column than SQLite over all of them. Where they are not all printable ASCII they come in hex.
 */
export function encodeTexts(columns: readonly string[]): string {
  const all = columns.map((column) => `coalesce(${column}, '')`).join(' || ');
  const types = columns.map((column) => `typeof(${column})`).join(', ');
  const isPlain = `'blob' NOT IN (${types}) AND instr(${all}, char(0)) = 0 AND ${all} NOT GLOB '*[^ -~]*'`;
  const plain = columns.map((column) => `CAST(${column} AS text)`).join(', ');
  const hex = columns.map(
    (column) => `CASE typeof(${column}) WHEN 'null' THEN NULL WHEN 'blob' THEN 0 ELSE hex(CAST(${column} AS text)) END`,
  );
  return `iif(${isPlain}, json_array(1, ${plain}), json_array(0, ${hex.join(', ')}))`;
}

/** What {@link encodeTexts} made of a row: a Buffer for text that is no UTF-8, an empty one for bytes. */
export function decodeTexts(json: string): (string | Buffer | null)[] {
  const [isPlain, ...texts] = JSON.parse(json) as [0 | 1, ...(string | 0 | null)[]];
  return texts.map((text) => {
    if (text === 0) return Buffer.alloc(0);
    if (text === null || isPlain === 1) return text;
    const bytes = Buffer.from(text, 'hex');
    return isUtf8(bytes) ? bytes.toString('utf8') : bytes;
  });
}
