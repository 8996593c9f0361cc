/** The audit table: records are added in the transaction of what they record, and never changed. Knows them as lines only. */

import type { Argument } from './connection.ts';
import { type Database, integer, type Statement, text } from './database.ts';

/** A record as it is added. */
export interface AuditLine {
  readonly chain: string;
  readonly sequence: number;
  readonly line: string;
}

export interface AuditRow {
  /** Where it stands among all records of the table, in the order of their commits. */
  readonly position: number;
  readonly line: string;
}

/** As many are read in one go. */
const pageRows = 1_000;

export class AuditStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds a record of something that needs no transaction of its own. */
  async add(record: AuditLine): Promise<void> {
    await this.#database.write([auditStatement(record)]);
  }

  /** In the order of their commits. */
  async list(after: number, limit: number): Promise<AuditRow[]> {
    const sql = 'SELECT position, line FROM vault_audit WHERE position > ? ORDER BY position LIMIT ?';
    const rows = await this.#database.read(sql, [after, limit]);
    return rows.map((row) => ({ position: integer(row, 'position'), line: text(row, 'line') }));
  }

  /** All that come after, page by page, also those that are added meanwhile. */
  async *allAfter(position: number): AsyncGenerator<AuditRow> {
    let last = position;
    for (let rows = await this.list(last, pageRows); rows.length > 0; rows = await this.list(last, pageRows)) {
      yield* rows;
      last = rows.at(-1)?.position ?? last;
    }
  }

  /** The position of the last record, 0 where there is none. */
  async lastPosition(): Promise<number> {
    const [row] = await this.#database.read('SELECT coalesce(max(position), 0) AS position FROM vault_audit');
    return row === undefined ? 0 : integer(row, 'position');
  }
}

/** Adds the record to a batch; where a condition is given, only if that holds at its place in the batch. */
export function auditStatement(
  { chain, sequence, line }: AuditLine,
  condition = 'true',
  args: readonly Argument[] = [],
): Statement {
  return {
    sql: `INSERT INTO vault_audit (chain, sequence, line) SELECT ?, ?, ? WHERE ${condition}`,
    args: [chain, sequence, line, ...args],
  };
}
