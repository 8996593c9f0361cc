/**
 * The audit table: each record is added in the transaction that it records and is never changed. This layer sees records as
 * opaque lines.
 */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { textOfLine } from '../runtime/lines.ts';
import { toBuffer } from './cells.ts';
import { type Argument, integer, type Row } from './connection.ts';
import type { Database } from './database.ts';
import type { Statement } from './guards.ts';

/** A record to be added. */
export interface AuditLine {
  readonly chain: string;
  readonly sequence: number;
  readonly line: string;
}

export interface AuditRow {
  /** Position among all records of the table, in commit order. */
  readonly position: number;
  readonly line: string;
}

/** Rows per read, unless the caller chooses another number. */
const defaultPageRows = 1_000;
const columns = 'position, CAST(line AS blob) AS line';

export class AuditStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds a record of an event that has no transaction of its own. */
  async add(record: AuditLine): Promise<void> {
    await this.#database.write([auditStatement(record)]);
  }

  /** Records after position `after`, in commit order. */
  async list(after: number, limit: number): Promise<AuditRow[]> {
    const sql = `SELECT ${columns} FROM vault_audit WHERE position > ? ORDER BY position LIMIT ?`;
    return (await this.#database.read(sql, [after, limit])).map(toAuditRow);
  }

  /** All later records, page by page, including those added meanwhile; the event loop is free between pages. */
  async *allAfter(position: number, pageRows = defaultPageRows): AsyncGenerator<AuditRow> {
    for (let last = position; ; await nextTurn()) {
      const rows = await this.list(last, pageRows);
      yield* rows;
      const next = rows.at(-1)?.position ?? last;
      // Positions beyond 2^53, which another program may have set, lose precision, so the next one may look the same as this one.
      if (next <= last) return;
      last = next;
    }
  }

  /** All records from the last one back, paged the same way. */
  async *allBackwards(pageRows = defaultPageRows): AsyncGenerator<AuditRow> {
    const sql = `SELECT ${columns} FROM vault_audit WHERE position < ? ORDER BY position DESC LIMIT ?`;
    for (let first = Number.MAX_SAFE_INTEGER; ; await nextTurn()) {
      const rows = (await this.#database.read(sql, [first, pageRows])).map(toAuditRow);
      yield* rows;
      const next = rows.at(-1)?.position ?? first;
      if (next >= first) return;
      first = next;
    }
  }

  /** The position of the last record, or 0 where there is none. */
  async lastPosition(): Promise<number> {
    const [row] = await this.#database.read('SELECT coalesce(max(position), 0) AS position FROM vault_audit');
    return row === undefined ? 0 : integer(row, 'position');
  }
}

/** Reads the line as bytes: the client ends the process on text that is not UTF-8, and truncates text at a NUL. */
function toAuditRow(row: Row): AuditRow {
  return { position: integer(row, 'position'), line: textOfLine(toBuffer(row.line)) };
}

/** The statement that adds the record within a batch; with a condition, only if it holds at that point in the batch. */
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
