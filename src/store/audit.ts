/** The audit table: records are added in the transaction of what they record, and never changed. Knows them as lines only. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { textOfLine } from '../runtime/lines.ts';
import { toBuffer } from './cells.ts';
import { type Argument, integer, type Row } from './connection.ts';
import type { Database } from './database.ts';
import type { Statement } from './guards.ts';

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

/** As many are read in one go, unless told otherwise. */
const defaultPageRows = 1_000;
const columns = 'position, CAST(line AS blob) AS line';

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
    const sql = `SELECT ${columns} FROM vault_audit WHERE position > ? ORDER BY position LIMIT ?`;
    return (await this.#database.read(sql, [after, limit])).map(toAuditRow);
  }

  /** All that come after, page by page, also those that are added meanwhile; the event loop is free between pages. */
  async *allAfter(position: number, pageRows = defaultPageRows): AsyncGenerator<AuditRow> {
    for (let last = position; ; await nextTurn()) {
      const rows = await this.list(last, pageRows);
      yield* rows;
      const next = rows.at(-1)?.position ?? last;
      // A position beyond 2^53, which another program may have given, is not told from the one before it.
      if (next <= last) return;
      last = next;
    }
  }

  /** All from the last one back, in the same way. */
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

  /** The position of the last record, 0 where there is none. */
  async lastPosition(): Promise<number> {
    const [row] = await this.#database.read('SELECT coalesce(max(position), 0) AS position FROM vault_audit');
    return row === undefined ? 0 : integer(row, 'position');
  }
}

/** In bytes: the client ends the process at a text that is no UTF-8, and cuts one at a NUL. */
function toAuditRow(row: Row): AuditRow {
  return { position: integer(row, 'position'), line: textOfLine(toBuffer(row.line)) };
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
