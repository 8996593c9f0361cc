/** Stages the rows of a snapshot in the database, chunk by chunk, for one transaction to move. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Keyring } from '../crypto/keyring.ts';
import type { Throttle } from '../runtime/throttle.ts';
import type { Cell } from '../store/cells.ts';
import { ciphertextColumns } from '../store/encrypted-rows.ts';
import type { MovedTable } from '../store/restore-moves.ts';
import { type IdentifiedRow, sealingColumns } from '../store/restore-pairs.ts';
import type { PresentRow, RestoreStore, StagedRow } from '../store/restores.ts';
import type { TableRow } from './check.ts';
import {
  type CellRow,
  cellOf,
  hintColumns,
  isMalformed,
  ivAndTagOf,
  keyIdHintOf,
  openingColumns,
  openingKeyId,
  updatedAtOf,
} from './rows.ts';

const chunkRows = 200;
const chunkCharacters = 1_000_000;

export interface StageContext {
  readonly restores: RestoreStore;
  readonly id: string;
  readonly shapes: ReadonlyMap<string, MovedTable>;
  /** Called after each row. */
  readonly throttle: Throttle;
}

/** Records the identities of rows to be paired; reads nothing if no table needs pairing. */
export async function noteIdentities(
  { restores, id, shapes, throttle }: StageContext,
  rows: () => AsyncIterable<TableRow>,
): Promise<void> {
  if ([...shapes.values()].every(({ keyColumn }) => keyColumn !== null)) return;
  for await (const { shape, rows: chunk } of groupsOf(rows(), shapes, throttle)) {
    if (shape.keyColumn !== null) continue;
    const identified = chunk.map((row) => toIdentified(shape, row));
    await restores.noteIdentities(id, shape.table, identified);
    await nextTurn();
  }
}

export async function stageWhole({ restores, id, shapes, throttle }: StageContext, rows: AsyncIterable<TableRow>): Promise<void> {
  for await (const chunk of groupsOf(rows, shapes, throttle)) {
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
  /** Whether the keyring may lack a key of rows that are in the table. */
  readonly mayLackKey: boolean;
}

/** Stages the rows that are missing now, or whose counterpart in the table opens with no key that anyone may have. */
export async function stageMissing(context: StageMissingContext, rows: AsyncIterable<TableRow>): Promise<MissingRows> {
  const { restores, id, shapes, throttle } = context;
  const missing = new MissingRows(context);
  for await (const { shape, rows: chunk } of groupsOf(rows, shapes, throttle)) {
    const columns = [...openingColumns(shape.table), ...hintColumns(shape)];
    const staged = chunk.map((row) => toStaged(shape, row));
    const keys = staged.map(({ matchCell, rowId }) => `[${matchCell},"${rowId}"]`);
    const present = await restores.present(id, shape, keys, columns);
    const chosen = staged.map((row, index) => missing.choose(shape, columns, row, present.get(index)));
    const due = chosen.filter((row) => row !== null);
    if (due.length > 0) await restores.stage(id, shape.table, due);
    await nextTurn();
  }
  return missing;
}

class MissingRows {
  readonly #context: StageMissingContext;
  /** The key ids of the rows to be put back. */
  readonly keyIds = new Set<string>();
  /** Rows of the table that do not open and are left, since a key that the keyring lacks may open them. */
  rowsLeft = 0;

  constructor(context: StageMissingContext) {
    this.#context = context;
  }

  /** The row to stage, with the present row that it replaces; null if it is not to be put back. */
  choose(shape: MovedTable, columns: readonly string[], row: StagedRow, present: PresentRow | undefined): StagedRow | null {
    const { keyring } = this.#context;
    const { table } = shape;
    const found = present === undefined ? null : { table, columns, cells: JSON.parse(present.cells) as Cell[] };
    if (found !== null && openingKeyId(keyring, found) !== null) return null;
    const taken = { table, columns: shape.columnsPutBack, cells: JSON.parse(row.cells) as Cell[] };
    const keyId = openingKeyId(keyring, taken);
    if (found !== null && keyId === null) return null;
    if (found !== null && !isDamaged(this.#context, found, taken)) {
      this.rowsLeft += 1;
      return null;
    }
    if (keyId !== null) this.keyIds.add(keyId);
    if (present === undefined || found === null) return row;
    return { ...row, present: { rowId: present.rowId, cells: JSON.stringify(found.cells.slice(0, ciphertextColumns.length)) } };
  }
}

/**
 * Whether a row of the table that does not open is damaged, rather than a newer one under a key that is not in the keyring. An IV
 * or tag belongs to one sealing: a row that shares either with the snapshot's row is that row, with a damaged column.
 */
function isDamaged({ keyring, mayLackKey }: StageMissingContext, found: CellRow, taken: CellRow): boolean {
  if (isMalformed(found)) return true;
  const [iv, tag] = ivAndTagOf(taken);
  const [foundIv, foundTag] = ivAndTagOf(found);
  if (foundIv === iv || foundTag === tag) return true;
  const keyIdHint = keyIdHintOf(found);
  if (keyIdHint !== null) return keyring.get(keyIdHint) !== undefined;
  return !mayLackKey && updatedAtOf(found) <= updatedAtOf(taken);
}

function toStaged({ keyColumn }: MovedTable, { table, row }: TableRow): StagedRow {
  const matched = keyColumn === null ? null : cellOf({ ...table, cells: row.cells }, keyColumn);
  return { rowId: row.rowid, matchCell: JSON.stringify(matched), cells: JSON.stringify(row.cells), present: null };
}

function toIdentified({ identity }: MovedTable, { table, row }: TableRow): IdentifiedRow {
  const taken = { ...table, cells: row.cells };
  const cells = identity.columns.map((column) => cellOf(taken, column));
  const sealing = sealingColumns.map((column) => cellOf(taken, column));
  const isUnique = identity.isUnique && !cells.includes(null);
  return { rowId: row.rowid, identity: JSON.stringify(cells), isUnique, sealing: JSON.stringify(sealing) };
}

interface Chunk {
  readonly shape: MovedTable;
  readonly rows: readonly TableRow[];
}

/** Rows of one table that fit into memory and one statement. */
async function* groupsOf(
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
