/**
 * Pairs the rows of a snapshot one to one with those of a table whose primary key is not a single column. Row ids cannot match
 * them: SQLite reuses them, and a table that was recreated or compacted by VACUUM has new ones. A row is matched by its identity
 * if that is unique on both sides; rows that share an identity are matched by IV and tag as well. Rows still in doubt stay
 * unpaired.
 */

import { encodeCells } from './cells.ts';
import { quote } from './encrypted-tables.ts';
import type { Statement } from './guards.ts';

/** What identifies the rows of a table. */
export interface Identity {
  readonly columns: readonly string[];
  /** Whether no two rows share the values of all columns, unless one of these is null. */
  readonly isUnique: boolean;
}

/** A table whose rows are matched by pairing. */
interface PairedTable {
  readonly table: string;
  readonly identity: Identity;
}

export interface IdentifiedRow {
  readonly rowId: string;
  /** JSON of the cells of the identity columns. */
  readonly identity: string;
  readonly isUnique: boolean;
  /** JSON of the cells of {@link sealingColumns}. */
  readonly sealing: string;
}

/** Together they identify one sealing. */
export const sealingColumns = ['iv', 'auth_tag'] as const;

export function noteStatement(id: string, table: string, rows: readonly IdentifiedRow[]): Statement {
  const sql = `INSERT OR REPLACE INTO vault_restore_identities (restore_id, table_name, row_id, identity, is_unique, sealing)
    SELECT ?, ?, CAST(value->>0 AS integer), value->1, value->>2, value->3 FROM json_each(?)`;
  const values = rows.map(({ rowId, identity, isUnique, sealing }) => `["${rowId}",${identity},${Number(isUnique)},${sealing}]`);
  return { sql, args: [id, table, `[${values.join(',')}]`] };
}

/** Each statement pairs rows that the previous one left unpaired, with one sort, however many rows are alike. */
export function pairStatements(id: string, { table, identity }: PairedTable): Statement[] {
  const noted = 'vault_restore_identities WHERE restore_id = ?1 AND table_name = ?2';
  const cells = [identity.columns, sealingColumns].map((columns) => codeOf('t', columns));
  const rows = `SELECT 0 AS is_present, row_id, identity, sealing FROM ${noted} AND present_row_id IS NULL
    UNION ALL SELECT 1, t.rowid, ${cells.join(', ')} FROM ${quote(table)} AS t
    WHERE t.rowid NOT IN (SELECT present_row_id FROM ${noted} AND present_row_id IS NOT NULL)`;
  const numbered = `SELECT *, row_number() OVER (PARTITION BY is_present, identity, sealing ORDER BY row_id) AS number FROM (${rows})`;
  const unpaired = `UPDATE vault_restore_identities SET present_row_id = NULL
    WHERE restore_id = ?1 AND table_name = ?2 AND present_row_id IS NOT NULL`;
  const sqls = [unpaired, pairSql(rows, 'identity'), pairSql(numbered, 'identity, sealing, number')];
  return sqls.map((sql) => ({ sql, args: [id, table] }));
}

/** Pairs rows that are alone in their group on their side with one that is alone on the other side. */
function pairSql(rows: string, group: string): string {
  return `UPDATE vault_restore_identities AS i SET present_row_id = pair.present_row_id FROM (
      SELECT max(iif(is_present, NULL, row_id)) AS row_id, max(iif(is_present, row_id, NULL)) AS present_row_id
      FROM (${rows}) GROUP BY ${group} HAVING count(*) = 2 AND sum(is_present) = 1) AS pair
    WHERE i.restore_id = ?1 AND i.table_name = ?2 AND i.row_id = pair.row_id`;
}

/**
 * Joins the table `t`, through the pairs, to the JSON `[…, rowid]` in `r.value`. Its arguments are the restore id and the table.
 */
export function pairedTo({ table, identity }: PairedTable): string {
  return `CROSS JOIN vault_restore_identities AS i ON i.restore_id = ? AND i.table_name = ? AND i.row_id = CAST(r.value->>1 AS integer)
    CROSS JOIN ${quote(table)} AS t ON t.rowid = i.present_row_id AND ${hasIdentity('t', identity, 'i')}`;
}

/** An SQL condition: the row of table `name` has the identity recorded in `noted`. */
export function hasIdentity(name: string, { columns }: Identity, noted: string): string {
  return `${codeOf(name, columns)} = ${noted}.identity`;
}

function codeOf(name: string, columns: readonly string[]): string {
  return encodeCells(columns.map((column) => `${name}.${quote(column)}`));
}
