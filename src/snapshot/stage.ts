/** Brings the rows of a snapshot into the database, chunk by chunk, where one transaction can move them. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Keyring } from '../crypto/keyring.ts';
import type { Cell } from '../store/cells.ts';
import { ciphertextColumns } from '../store/encrypted-rows.ts';
import type { MovedTable, RestoreStore, StagedRow } from '../store/restores.ts';
import type { Throttle } from '../throttle.ts';
import type { TableRow } from './check.ts';
import { hintColumns, keyIdHintOf, keyIdOf, openingColumns, positionOf } from './rows.ts';

const chunkRows = 200;
const chunkCharacters = 1_000_000;

export interface StageContext {
  readonly restores: RestoreStore;
  readonly id: string;
  readonly shapes: ReadonlyMap<string, MovedTable>;
  /** Is called after each row. */
  readonly throttle: Throttle;
}

/** Stages every row. */
export async function stageWhole({ restores, id, shapes, throttle }: StageContext, rows: AsyncIterable<TableRow>): Promise<void> {
  for await (const chunk of chunksOf(rows, shapes, throttle)) {
    await restores.stage(
      id,
      chunk.shape.table,
      chunk.rows.map((row) => toStaged(chunk.shape, row)),
    );
    await nextTurn();
  }
}

export interface StageMissingContext extends StageContext {
  readonly keyring: Keyring;
  /** Keys of this database that the keyring lacks: a row that names one of them may be fine. */
  readonly missingKeyIds: ReadonlySet<string>;
}

/** Stages the rows that are missing now, or that stand there and do not open. */
export async function stageMissing(context: StageMissingContext, rows: AsyncIterable<TableRow>): Promise<void> {
  const { restores, id, shapes, throttle } = context;
  for await (const { shape, rows: chunk } of chunksOf(rows, shapes, throttle)) {
    const columns = [...openingColumns(shape.table), ...hintColumns(shape.table)];
    const staged = chunk.map((row) => toStaged(shape, row));
    const keys = staged.map(({ matchCell, rowId }) => `[${matchCell},"${rowId}"]`);
    const present = await restores.present(shape, keys, columns);
    const due = staged.flatMap((row, index) => {
      const found = present.get(index);
      if (found === undefined) return [row];
      const cells = JSON.parse(found.cells) as Cell[];
      const taken = chunk[index];
      if (taken === undefined || !isBetter(context, taken, columns, cells)) return [];
      const read = JSON.stringify(cells.slice(0, ciphertextColumns.length));
      return [{ ...row, present: { rowId: found.rowId, cells: read } }];
    });
    if (due.length > 0) await restores.stage(id, shape.table, due);
    await nextTurn();
  }
}

/** Whether the row opens, and the one that stands there, with these cells, does not and would not with a key that is missing. */
function isBetter(
  { keyring, missingKeyIds }: StageMissingContext,
  { table, row }: TableRow,
  columns: readonly string[],
  present: readonly Cell[],
): boolean {
  if (keyIdOf(keyring, table.table, columns, present) !== null) return false;
  if (missingKeyIds.has(keyIdHintOf(columns, present) ?? '')) return false;
  return keyIdOf(keyring, table.table, table.columns, row.cells) !== null;
}

function toStaged({ primaryKey, columnsPutBack }: MovedTable, { row }: TableRow): StagedRow {
  const matched = primaryKey === null ? null : (row.cells[positionOf(columnsPutBack, primaryKey)] ?? null);
  return { rowId: row.rowid, matchCell: JSON.stringify(matched), cells: JSON.stringify(row.cells), present: null };
}

interface Chunk {
  readonly shape: MovedTable;
  readonly rows: readonly TableRow[];
}

/** Rows of one table that fit into memory and a statement. */
async function* chunksOf(
  rows: AsyncIterable<TableRow>,
  shapes: ReadonlyMap<string, MovedTable>,
  throttle: Throttle,
): AsyncGenerator<Chunk> {
  let chunk: TableRow[] = [];
  let characters = 0;
  const flush = function* (): Generator<Chunk> {
    const shape = shapes.get(chunk[0]?.table.table ?? '');
    if (shape !== undefined) yield { shape, rows: chunk };
    [chunk, characters] = [[], 0];
  };
  for await (const each of rows) {
    const size = JSON.stringify(each.row.cells).length;
    const isOther = chunk[0] !== undefined && chunk[0].table !== each.table;
    if (isOther || chunk.length === chunkRows || (chunk.length > 0 && characters + size > chunkCharacters)) yield* flush();
    chunk.push(each);
    characters += size;
    throttle();
  }
  yield* flush();
}
