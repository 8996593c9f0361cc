/** Writes the rotated rows back, by compare-and-swap: in one commit with the switch of the active key, or in chunks after it. */

import { type CoveredPart, coveredPages } from '../keys/covered-rows.ts';
import { firstRowId, lastRowId, replaceStatement, tableStateStatements } from '../store/encrypted-tables.ts';
import type { Statement } from '../store/guards.ts';
import { release } from '../store/owned-bytes.ts';
import type { TableWork } from './inspection.ts';
import type { SealedPage } from './page-work.ts';

/** A page is written in about half of the time in which a thread seals one. */
const keptPerTurn = 2;

/** What one commit writes, and how many rows it rotates. */
export interface OneCommit {
  readonly statements: readonly Statement[];
  readonly rowsRotated: number;
}

/**
 * The statements that rotate all rows: those that `atGate` holds as they were sealed there, others as they are read now. The
 * last of each table assert that it then holds what was sealed and nothing else, so that a write which came between makes the
 * whole batch fail. Null where a row that has come since the gate opens with neither key.
 */
export async function prepareOneCommit(work: TableWork, toKeyId: string, atGate: SealedPage[]): Promise<OneCommit | null> {
  const pages: SealedPage[] = [];
  for await (const page of sealedPages(work, atGate)) {
    if (page.rowsFailed > 0) return null;
    pages.push(page);
  }
  const replacing = pages.flatMap(({ table, replacements }) =>
    replacements.map((json) => replaceStatement(table, toKeyId, json)),
  );
  const asserting = work.tableNames.flatMap((name) =>
    tableStateStatements(
      name,
      pages.filter(({ table }) => table === name).map(({ expected }) => expected),
    ),
  );
  return { statements: [...replacing, ...asserting], rowsRotated: pages.reduce((sum, { rowsRotated }) => sum + rowsRotated, 0) };
}

/**
 * Goes through {@link sealedPages} or {@link sealNow} and hands over, chunk by chunk, the statement that rotates their rows;
 * `write` answers how many it has changed. Where somebody has replaced a row since it was sealed, under whichever key, its page
 * is read again.
 */
export async function writeChunks(
  work: TableWork,
  toKeyId: string,
  pages: AsyncIterable<SealedPage>,
  write: (chunk: Statement) => Promise<number>,
): Promise<void> {
  const writePage = async ({ table, replacements }: SealedPage): Promise<number> => {
    let changed = 0;
    for (const json of replacements) {
      work.assertGoesOn();
      changed += await write(replaceStatement(table, toKeyId, json));
      release(json);
    }
    return changed;
  };
  for await (const page of pages) {
    work.assertGoesOn();
    const { table, range, rowsRotated, expected } = page;
    if ((await writePage(page)) < rowsRotated)
      for await (const again of sealNow(work, [{ table, range }])) await writePage(again);
    release(expected.tags);
    work.progress.advance(expected.rows);
  }
}

/**
 * What the gate has sealed, and what lies behind that in each table: what has come since, and what the gate had no room for. By
 * turns, so that threads seal the ones while the others are written. What is handed on is taken out of `atGate`: it is memory.
 */
export async function* sealedPages(work: TableWork, atGate: SealedPage[]): AsyncGenerator<SealedPage> {
  const others = work.tableNames.map((table) => behind(atGate, table));
  for await (const page of sealNow(work, others)) {
    yield page;
    yield* atGate.splice(0, keptPerTurn);
  }
  while (atGate.length > 0) yield* atGate.splice(0, keptPerTurn);
}

function behind(atGate: readonly SealedPage[], table: string): CoveredPart {
  const last = atGate.findLast((page) => page.table === table)?.range.to ?? firstRowId - 1n;
  return { table, range: { from: last + 1n, to: lastRowId } };
}

/** The rows of some parts, as they are now. */
export async function* sealNow({ tables, workers }: TableWork, parts: readonly CoveredPart[]): AsyncGenerator<SealedPage> {
  for await (const { sealed } of workers.work(coveredPages(tables, parts), () => true)) if (sealed !== null) yield sealed;
}
