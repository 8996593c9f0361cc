/** What a statement, its arguments and its answer look like, to a file and to a server alike. */

/**
 * A number is bound as a real unless the column's type says otherwise. Bytes always hold text in UTF-8, which the statement casts: a file
 * binds them in less time, and a server is sent the text itself, which is shorter than base64.
 */
export type Argument = null | string | number | bigint | Uint8Array;

/** Of a column; bytes are a Buffer where a file answers, and an ArrayBuffer where a server does. */
export type Value = Argument | ArrayBuffer;

export interface SqlStatement {
  readonly sql: string;
  readonly args?: readonly Argument[];
}

export type Row = Record<string, Value>;

export interface Result {
  readonly rows: readonly Row[];
  /** Of a statement without rows of its own. */
  readonly rowsAffected: number;
}

export interface Connection {
  execute(statement: SqlStatement): Promise<Result>;
  /**
   * All of them or none. Throws LibsqlBatchError, which says at which of them it ended. On a file it throws AttemptTimeoutError where it
   * could not begin by `endsAtMs`, by `performance.now()`.
   */
  batch(statements: readonly SqlStatement[], endsAtMs: number): Promise<readonly Result[]>;
  /** Resolves once nothing of it uses the database any more. */
  close(): Promise<void>;
}

/** The value of a column that the schema gives this type. */
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
