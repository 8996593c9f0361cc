/** The common form of statements, arguments and results, for a file and for a server. */

/**
 * A number is bound as a real unless the column's type says otherwise. Bytes always hold UTF-8 text, which the statement casts: a
 * file binds bytes faster, and a server is sent the text itself, which is shorter than base64.
 */
export type Argument = null | string | number | bigint | Uint8Array;

/** A column's value; bytes are a Buffer from a file, and an ArrayBuffer from a server. */
export type Value = Argument | ArrayBuffer;

export interface SqlStatement {
  readonly sql: string;
  readonly args?: readonly Argument[];
}

export type Row = Record<string, Value>;

export interface Result {
  readonly rows: readonly Row[];
  /** Meaningful only for statements that return no rows. */
  readonly rowsAffected: number;
}

export interface Connection {
  execute(statement: SqlStatement): Promise<Result>;
  /**
   * Runs all statements or none. Throws LibsqlBatchError with the index of the statement that failed. On a file, throws
   * AttemptTimeoutError if it could not begin by `endsAtMs`, by `performance.now()`.
   */
  batch(statements: readonly SqlStatement[], endsAtMs: number): Promise<readonly Result[]>;
  /** Resolves once this connection no longer uses the database. */
  close(): Promise<void>;
}

/** The value of a column that the schema declares as text. */
export function text(row: Row, column: string): string {
  return String(row[column]);
}

export function textOrNull(row: Row, column: string): string | null {
  const value = row[column];
  return value === null || value === undefined ? null : String(value);
}

export function integer(row: Row, column: string): number {
  return Number(row[column]);
}

export function integerOrNull(row: Row, column: string): number | null {
  const value = row[column];
  return value === null || value === undefined ? null : Number(value);
}

/** SQLite answers a condition with 1 or 0. */
export function isTrue(row: Row, column: string): boolean {
  return integer(row, column) === 1;
}
