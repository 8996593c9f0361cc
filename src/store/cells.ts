/**
 * Carries any value of a column through JSON and back byte for byte, coded and decoded by the database itself: the client
 * would cut text at a NUL, and ends the whole process at text that is no UTF-8, which any other program may have written.
 */

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

/** As {@link textOfCell}, but null also for what is no UTF-8. */
export function exactTextOfCell(cell: Cell | undefined): string | null {
  const text = textOfCell(cell);
  const isExact = typeof cell === 'string' || (text !== null && Buffer.from(text, 'utf8').toString('hex') === hexOf(cell));
  return isExact ? text : null;
}

function hexOf(cell: Cell | undefined): string | null {
  return typeof cell === 'object' && cell !== null && 'text' in cell ? cell.text : null;
}

/** The text of a cell, or null where it is not text. What is no UTF-8 is replaced in it. */
export function textOfCell(cell: Cell | undefined): string | null {
  if (typeof cell === 'string') return cell;
  return typeof cell === 'object' && cell !== null && 'text' in cell ? Buffer.from(cell.text, 'hex').toString('utf8') : null;
}
