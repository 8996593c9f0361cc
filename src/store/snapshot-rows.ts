/** Reads whole rows, with every column, as cells that can be restored byte for byte. */

import { ConfigurationError } from '../errors.ts';
import { encodeCells } from './cells.ts';
import { integer, type Row, text } from './connection.ts';
import { type Database, pageWorkMs } from './database.ts';
import type { RowIdRange } from './encrypted-rows.ts';
import { quote } from './encrypted-tables.ts';
import { assertHasRowIds, firstRowId, lastRowId, readPages, withLastingRowIds } from './row-ids.ts';

const pageRows = 500;
/** Characters after which a page ends, so that it fits into memory and a server's answer. */
const pageCharacters = 2_000_000;

export interface TableShape {
  readonly table: string;
  /** All writable columns, in the table's order. */
  readonly columns: readonly string[];
  /** The columns of the primary key; empty if there is none. */
  readonly primaryKey: readonly string[];
  /** The columns of each unique index, in the order in which the indexes were created. */
  readonly uniqueColumns: readonly (readonly string[])[];
}

export interface CodedRow {
  /** In decimal, since it may be above 2^53. */
  readonly rowId: string;
  /** JSON, as {@link encodeCells} produces it. */
  readonly cells: string;
}

export class SnapshotRows {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Throws ConfigurationError if there is no such table. */
  async shape(table: string): Promise<TableShape> {
    const shape = await this.findShape(table);
    if (shape !== null) return shape;
    throw new ConfigurationError(`The database has no table ${table}, which the vault is told to cover.`);
  }

  /** Null if there is no such table. Throws ConfigurationError if it cannot be covered. */
  async findShape(table: string): Promise<TableShape | null> {
    const rows = await this.#database.read('SELECT name, pk FROM pragma_table_info(?) ORDER BY cid', [table]);
    if (rows.length === 0) return null;
    await assertHasRowIds(this.#database, table);
    const keys = rows.filter((row) => integer(row, 'pk') > 0);
    return { table, columns: rows.map(nameOf), primaryKey: keys.map(nameOf), uniqueColumns: await this.#uniqueColumns(table) };
  }

  /** Leaves out partial indexes and indexes on expressions. */
  async #uniqueColumns(table: string): Promise<string[][]> {
    const sql = `SELECT json_group_array(c.name) AS names FROM pragma_index_list(?) AS i JOIN pragma_index_info(i.name) AS c
      WHERE i."unique" = 1 AND i.partial = 0 GROUP BY i.seq HAVING count(c.name) = count(*) ORDER BY i.seq DESC`;
    const rows = await this.#database.read(sql, [table]);
    return rows.map((row) => JSON.parse(text(row, 'names')) as string[]);
  }

  /** See {@link withLastingRowIds}: any read of all {@link pages} must run inside a pass. */
  pass<Result>(pass: () => Promise<Result>): Promise<Result> {
    return withLastingRowIds(this.#database, pass);
  }

  /** All rows, each as it was when its page was read: see {@link readPages}. */
  async *pages({ table, columns }: TableShape): AsyncGenerator<CodedRow[]> {
    const sql = `SELECT CAST(row_id AS text) AS row_id_text, cells FROM (
        SELECT row_id, cells, sum(length(cells)) OVER (ORDER BY row_id) - length(cells) AS characters_before
        FROM (SELECT rowid AS row_id, ${encodeCells(columns.map(quote))} AS cells
              FROM ${quote(table)} WHERE rowid >= ? ORDER BY rowid LIMIT ?))
      WHERE characters_before < ? ORDER BY row_id`;
    const read = async ({ from }: RowIdRange, limit: number) => {
      const coded = (await this.#database.read(sql, [from, limit, pageCharacters], pageWorkMs)).map(toCodedRow);
      const last = coded.at(-1);
      return last === undefined ? null : { range: { from, to: BigInt(last.rowId) }, rows: coded.length, coded };
    };
    for await (const { coded } of readPages({ from: firstRowId, to: lastRowId }, pageRows, read)) yield coded;
  }
}

function nameOf(column: Row): string {
  return text(column, 'name');
}

function toCodedRow(row: Row): CodedRow {
  return { rowId: text(row, 'row_id_text'), cells: text(row, 'cells') };
}
