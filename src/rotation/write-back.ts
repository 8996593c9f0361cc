/** Writes the rotated rows back by compare-and-swap: in one commit with the switch of the active key, or in chunks after it. */

import { type CoveredPart, coveredPages } from '../keys/covered-rows.ts';
import { release } from '../runtime/owned-bytes.ts';
import { replaceStatement, tableStateStatements } from '../store/encrypted-tables.ts';
import type { Statement } from '../store/guards.ts';
import { firstRowId, lastRowId } from '../store/row-ids.ts';
import type { TableWork } from './inspection.ts';
import type { SealedPage } from './page-work.ts';

/** Writing a page takes about half as long as a thread takes to seal one. */
const keptPerTurn = 2;

/** The statements of one commit, and how many rows it rotates. */
export interface OneCommit {
  readonly statements: readonly Statement[];
  readonly rowsRotated: number;
}

/**
 * The statements that rotate all rows: pages in `atGate` as sealed there, the others as they are read now. The last statements
 * for each table assert that it then holds what was sealed and nothing else, so that a concurrent write fails the whole batch.
 * Null if a row written since the gate opens with neither key.
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
  const asserting = work.coverage.encryptedTables.flatMap((name) =>
    tableStateStatements(
      name,
      pages.filter(({ table }) => table === name).map(({ expected }) => expected),
    ),
  );
  return { statements: [...replacing, ...asserting], rowsRotated: pages.reduce((sum, { rowsRotated }) => sum + rowsRotated, 0) };
}

/**
 * Passes to `write`, for {@link sealedPages} or {@link sealNow}, the statement that rotates each chunk of rows; `write` returns
 * how many rows it changed. If another writer has replaced a row since it was sealed, under whichever key, its page is read
 * again.
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
 * The pages sealed by the gate, and the rows after them in each table: those added since, and those that the gate had no room
 * for. The two alternate, so that threads seal new pages while sealed ones are written. Pages are removed from `atGate` as they
 * are yielded, to free their memory.
 */
export async function* sealedPages(work: TableWork, atGate: SealedPage[]): AsyncGenerator<SealedPage> {
  const others = work.coverage.encryptedTables.map((table) => behind(atGate, table));
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

/** The rows of these parts as they are now, sealed. */
export async function* sealNow({ tables, workers }: TableWork, parts: readonly CoveredPart[]): AsyncGenerator<SealedPage> {
  for await (const { sealed } of workers.work(coveredPages(tables, parts), () => true)) if (sealed !== null) yield sealed;
}
