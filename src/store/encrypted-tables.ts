/**
 * The tables that hold ciphertext in the gateway's three columns: reads them page by page, and replaces a ciphertext only where
 * it is still what was read.
 */

import { ConfigurationError } from '../errors.ts';
import { encodeRowsOfTexts, toBuffer } from './cells.ts';
import { integer, text } from './connection.ts';
import { type Database, pageWorkMs } from './database.ts';
import {
  apiKeysTable,
  bindingColumns,
  ciphertextColumns,
  type EncryptedPage,
  type ExpectedRows,
  maxComparedCharacters,
  pageRows,
  type RowIdRange,
} from './encrypted-rows.ts';
import { guard, type Statement } from './guards.ts';
import { assertHasRowIds, firstRowId, lastRowId, readPages, withLastingRowIds } from './row-ids.ts';

/**
 * How much ciphertext a page holds at most, in hex characters; a longer row is a page of its own. A page is one value, and a
 * server sends at most 5,000,000 bytes of one.
 */
const pageCharacters = 2_000_000;

export interface TableCount {
  readonly table: string;
  readonly rows: number;
}

export class EncryptedTables {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Every table that has the three columns, with its row count, which stops at `mostRows`. Virtual tables are left out: they keep
   * their rows in other tables, and their module may not be loaded here.
   */
  async discover(mostRows?: number): Promise<TableCount[]> {
    const sql = `SELECT m.name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c
      WHERE m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL%' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND lower(c.name) IN ('encrypted_value', 'iv', 'auth_tag')
      GROUP BY m.name HAVING count(*) = 3 ORDER BY m.name`;
    const names = (await this.#database.read(sql)).map((row) => text(row, 'name'));
    return Promise.all(names.map(async (table) => ({ table, rows: await this.#count(table, mostRows) })));
  }

  /** See {@link withLastingRowIds}: any read of all {@link pages} must run inside a pass. */
  pass<Result>(pass: () => Promise<Result>): Promise<Result> {
    return withLastingRowIds(this.#database, pass);
  }

  /** All rows, or those of a range: see {@link readPages}. */
  async *pages(table: string, range: RowIdRange = { from: firstRowId, to: lastRowId }): AsyncGenerator<EncryptedPage> {
    const sql = await this.#pageStatement(table);
    yield* readPages(range, pageRows, async ({ from, to }, limit) => {
      const [found = {}] = await this.#database.read(sql, [from, to, limit, pageCharacters], pageWorkMs);
      const rows = integer(found, 'rows');
      if (rows === 0) return null;
      return { table, range: { from, to: BigInt(text(found, 'last_row_id')) }, rows, cells: toBuffer(found.cells) };
    });
  }

  /** Which of these ids name a row of the table: by its `id`, or, where that is null or bytes, as `rowid:` and its row id. */
  async idsAmong(table: string, ids: readonly string[]): Promise<Set<string>> {
    const hasIdColumn = (await this.#columns(table)).has('id');
    // An untyped column may hold a number, which is named by its digits.
    const byId = "id = wanted.id OR (id = CAST(wanted.id AS numeric) AND typeof(id) <> 'blob' AND CAST(id AS text) = wanted.id)";
    const byRowId = `rowid = wanted.row_id${hasIdColumn ? " AND typeof(id) IN ('null', 'blob')" : ''}`;
    const wanted = ids.map((id) => [id, /^rowid:(-?\d+)$/.exec(id)?.[1] ?? null]);
    const rows = await this.#database.read(
      `WITH wanted AS MATERIALIZED (SELECT value->>0 AS id, CAST(value->>1 AS integer) AS row_id FROM json_each(?))
       SELECT wanted.id AS wanted FROM wanted WHERE EXISTS (SELECT 1 FROM main.${quote(table)} AS t WHERE ${hasIdColumn ? `${byId} OR (${byRowId})` : byRowId})`,
      [JSON.stringify(wanted)],
    );
    return new Set(rows.map((row) => text(row, 'wanted')));
  }

  async #count(table: string, mostRows?: number): Promise<number> {
    const counted = mostRows === undefined ? quote(table) : `(SELECT 1 FROM ${quote(table)} LIMIT ${mostRows})`;
    const [row] = await this.#database.read(`SELECT count(*) AS rows FROM ${counted}`);
    return row === undefined ? 0 : integer(row, 'rows');
  }

  /** In lower case: SQLite ignores the case of column names. */
  async #columns(table: string): Promise<Set<string>> {
    const rows = await this.#database.read('SELECT lower(name) AS name FROM pragma_table_info(?)', [table]);
    return new Set(rows.map((row) => text(row, 'name')));
  }

  async #pageStatement(table: string): Promise<string> {
    const columns = await this.#columns(table);
    const owned = table === apiKeysTable ? bindingColumns : [];
    const missing = [...ciphertextColumns, ...owned].filter((column) => !columns.has(column));
    if (columns.size === 0) throw new ConfigurationError(`The database has no table ${table}, which the vault is told to cover.`);
    if (missing.length > 0) throw new ConfigurationError(`The table ${table} has no column ${missing.join(', ')}.`);
    await assertHasRowIds(this.#database, table);
    // In bytes, a length that SQLite knows without reading the value, unlike that in characters. In hex the two are equal.
    const candidates = `SELECT rowid AS row_id, coalesce(octet_length(encrypted_value), 0) AS characters
      FROM ${quote(table)} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid LIMIT ?3`;
    const cells = encodeRowsOfTexts(['rowid', columns.has('id') ? 'id' : 'NULL', ...ciphertextColumns, ...owned]);
    // The running sum over row lengths is computed only if all rows together are too long: it takes as long as reading them.
    return `SELECT count(*) AS rows, CAST(max(rowid) AS text) AS last_row_id, ${cells} AS cells FROM ${quote(table)}
      WHERE rowid BETWEEN ?1 AND (SELECT iif(sum(characters) <= ?4, max(row_id), (
        SELECT max(row_id) FROM (
          SELECT row_id, characters, sum(characters) OVER (ORDER BY row_id) AS characters_so_far FROM (${candidates}))
        WHERE characters_so_far <= ?4 OR characters_so_far = characters)) FROM (${candidates}))`;
  }
}

/**
 * Replaces ciphertexts by compare-and-swap: it changes only rows that still hold the ciphertext that was read and the values that
 * the new one is bound to. In `api_keys` it also records the key id; other tables belong to other programs, and get no columns of
 * ours.
 */
export function replaceStatement(table: string, keyId: string, replacements: Uint8Array): Statement {
  const isOwned = table === apiKeysTable;
  const recordKeyId = isOwned ? ', key_id = ?2, key_id_tag = sealed.value->>3' : '';
  const sameBinding = isOwned
    ? `AND (sealed.value->>5 IS NULL OR (${bindingColumns.map((column, index) => `${column} IS sealed.value->>${4 + index}`).join(' AND ')}))`
    : '';
  // What was read is compared as one text, since extracting each value from JSON costs as much as one comparison of them all. The
  // texts are materialized once; straight from json_each they would be built anew for every extraction. A covered table may have
  // the name of the materialized one: with its schema before it, it is the table.
  const sql = `WITH sealed AS MATERIALIZED (SELECT key, value FROM json_each(CAST(?1 AS text)))
    UPDATE main.${quote(table)} AS t SET encrypted_value = sealed.value->>1, iv = sealed.value->>2, auth_tag = sealed.value->>3${recordKeyId}
    FROM sealed WHERE t.rowid = CAST(sealed.key AS integer)
      AND iv || ' ' || auth_tag || ' ' || iif(length(encrypted_value) > ${maxComparedCharacters}, '', encrypted_value)
        = sealed.value->>0 ${sameBinding}`;
  return { sql, args: isOwned ? [replacements, keyId] : [replacements] };
}

/** The guard that fails once a table is not exactly what the batch expects. */
export const tableStateGuard = 'table_state';

/** Statements that fail the batch unless the table holds exactly the rows of these pages. */
export function tableStateStatements(table: string, pages: readonly ExpectedRows[]): Statement[] {
  const isThere = `(SELECT count(*) FROM json_each(CAST(? AS text)) AS expected CROSS JOIN ${quote(table)} AS t
    ON t.rowid = CAST(expected.value->>0 AS integer) AND coalesce(t.auth_tag = expected.value->>1, 1)) = ?`;
  const statements = pages.map(({ tags, rows }) => guard(tableStateGuard, isThere, [tags, rows]));
  const total = pages.reduce((sum, { rows }) => sum + rows, 0);
  return [...statements, guard(tableStateGuard, `(SELECT count(*) FROM ${quote(table)}) = ?`, [total])];
}

export function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
