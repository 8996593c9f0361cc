/** Proves with a keyring alone, and no database, that a snapshot is complete and authentic and opens. */

import { createHash, timingSafeEqual } from 'node:crypto';
import type { Keyring } from '../crypto/keyring.ts';
import { readLines } from '../runtime/lines.ts';
import { type Throttle, unthrottled } from '../runtime/throttle.ts';
import {
  hmacOf,
  malformed,
  maxLineBytes,
  readHeader,
  readRow,
  readTrailer,
  refusal,
  type SnapshotHeader,
  type SnapshotRow,
  type SnapshotTable,
  type SnapshotTrailer,
} from './format.ts';
import { nameOfRow, openingKeyId } from './rows.ts';
import type { Spool } from './spool.ts';

export interface CheckedSnapshot {
  /** It names as the active key the one whose subkey authenticates the snapshot. */
  readonly header: SnapshotHeader;
  readonly rows: number;
  /** Rows that no key opens; none opened them when the snapshot was taken. */
  readonly rowsUnopened: number;
  readonly rowsByKeyId: ReadonlyMap<string, number>;
}

export interface TableRow {
  readonly table: SnapshotTable;
  readonly row: SnapshotRow;
}

/**
 * Authenticates every byte, then opens every row, except as many as could not be opened when the snapshot was taken, which are
 * kept as they are. Throws InvalidSnapshotError with the cause in `details.reason`; and what `throttle` throws.
 */
export async function checkSnapshot(spool: Spool, keyring: Keyring, throttle: Throttle = unthrottled): Promise<CheckedSnapshot> {
  const ending = await readToEnd(spool);
  assertAuthentic(ending, keyring);
  const { rows, trailer } = ending;
  const rowsByKeyId = new Map<string, number>();
  const header = await readSnapshotHeader(spool);
  if (header.active_key_id !== trailer.key_id)
    malformed('its header names another active key than the one that authenticates it');
  let rowsUnopened = 0;
  let unopened: TableRow | null = null;
  for await (const tableRow of readSnapshotRows(spool)) {
    const { table, row } = tableRow;
    const keyId = openingKeyId(keyring, { ...table, cells: row.cells });
    if (keyId !== null) rowsByKeyId.set(keyId, (rowsByKeyId.get(keyId) ?? 0) + 1);
    else {
      unopened ??= tableRow;
      rowsUnopened += 1;
    }
    throttle();
  }
  if (unopened !== null && rowsUnopened > header.rows_unopened) throw unopenedRefusal(header, keyring, unopened);
  return { header, rows, rowsUnopened, rowsByKeyId };
}

/** Call only for an authenticated snapshot. */
async function readSnapshotHeader(spool: Spool): Promise<SnapshotHeader> {
  for await (const line of readLines(spool.chunks(), maxLineBytes))
    return readHeader(line ?? malformed('its first line is no header'));
  return malformed('it is empty');
}

/** Every row of an authenticated snapshot: tables in the header's order, rows in order of row id. */
export async function* readSnapshotRows(spool: Spool): AsyncGenerator<TableRow> {
  let number = 0;
  let walk: RowWalk | null = null;
  let held: Buffer | null = null;
  for await (const line of readLines(spool.chunks(), maxLineBytes)) {
    // One line is held back, so that the last, the trailer, is never taken for a row.
    if (held !== null && walk === null) walk = new RowWalk(await readHeader(held));
    else if (held !== null && walk !== null) yield walk.next(await readRow(held, number));
    held = line;
    number += 1;
  }
  walk?.end();
}

/** Enforces the header's order and counts, so that no row occurs twice. */
class RowWalk {
  readonly #tables: readonly SnapshotTable[];
  #index = 0;
  #rows = 0;
  #lastRowId: bigint | null = null;

  constructor({ tables }: SnapshotHeader) {
    this.#tables = tables;
  }

  next(row: SnapshotRow): TableRow {
    this.#leaveFullTables();
    const table = this.#tables[this.#index];
    const rowId = BigInt(row.rowid);
    const integers = row.cells.flatMap((cell) =>
      typeof cell === 'object' && cell && 'integer' in cell ? [BigInt(cell.integer)] : [],
    );
    if (table?.table !== row.table) return malformed(`a row of ${row.table} stands where its header has none`);
    if (row.cells.length !== table.columns.length) return malformed(`a row of ${row.table} has not the columns of its header`);
    if (this.#lastRowId !== null && rowId <= this.#lastRowId) return malformed(`rows of ${row.table} are out of order`);
    if ([rowId, ...integers].some((each) => each !== BigInt.asIntN(64, each)))
      return malformed(`a row id or an integer of ${row.table} is out of range`);
    this.#rows += 1;
    this.#lastRowId = rowId;
    return { table, row };
  }

  end(): void {
    this.#leaveFullTables();
    if (this.#index < this.#tables.length) malformed('it has fewer rows than its header says');
  }

  #leaveFullTables(): void {
    while (this.#tables[this.#index]?.rows === this.#rows) {
      this.#index += 1;
      this.#rows = 0;
      this.#lastRowId = null;
    }
  }
}

/** The trailer of a snapshot, and what it is checked against. */
interface Ending {
  readonly trailer: SnapshotTrailer;
  /** SHA-256 of all lines before the trailer. */
  readonly digest: Buffer;
  readonly rows: number;
}

async function readToEnd(spool: Spool): Promise<Ending> {
  const hash = createHash('sha256');
  let lines = 0;
  let last: Buffer | null = null;
  for await (const line of readLines(spool.chunks(), maxLineBytes)) {
    if (line === null) throw refusal('edited', 'one of its lines is longer than any that is written');
    if (last !== null) hash.update(last);
    last = line;
    lines += 1;
  }
  const trailer = last === null ? null : await readTrailer(last);
  if (trailer === null) throw refusal('truncated', 'it does not end with a trailer');
  return { trailer, digest: hash.digest(), rows: lines - 2 };
}

function assertAuthentic({ trailer, digest, rows }: Ending, keyring: Keyring): void {
  if (trailer.sha256 !== digest.toString('hex') || trailer.rows !== rows) {
    throw refusal(
      'edited',
      'its SHA-256 or its count of rows is not that of its trailer, so that it has been edited, or a part is missing',
    );
  }
  const key = keyring.get(trailer.key_id);
  if (key === undefined) {
    throw refusal(
      'missing_key',
      `it is authenticated by the master key ${trailer.key_id}, which is not in the keyring: add it as PROVARA_MASTER_KEY_OLD`,
      { key_id: trailer.key_id },
    );
  }
  if (!timingSafeEqual(Buffer.from(hmacOf(key, digest), 'hex'), Buffer.from(trailer.hmac, 'hex'))) {
    throw refusal('foreign', `its HMAC is not that of the master key ${key.id}: no vault with that key has made it`);
  }
}

function unopenedRefusal({ key_ids }: SnapshotHeader, keyring: Keyring, { table, row }: TableRow) {
  const id = nameOfRow({ ...table, cells: row.cells }, row.rowid);
  const missing = key_ids.filter((keyId) => keyring.get(keyId) === undefined);
  const hint = missing.length === 0 ? '' : `; its rows need ${missing.join(' and ')}, which is not in the keyring`;
  return refusal('row_does_not_open', `${table.table}.id=${id} does not open with any key of the keyring${hint}`, {
    table: table.table,
    id,
    missing_key_ids: missing,
  });
}
