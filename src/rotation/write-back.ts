/** Writes the rotated rows back, by compare-and-swap: in one commit with the switch of the active key, or in chunks after it. */

import { namedPages } from '../keys/covered-rows.ts';
import type { Statement } from '../store/database.ts';
import type { ExpectedRow } from '../store/encrypted-rows.ts';
import { type EncryptedTables, replaceStatement, tableStateStatements } from '../store/encrypted-tables.ts';
import type { PageWorkers } from './page-workers.ts';
import type { RotationPlan } from './plan.ts';
import type { Progress } from './progress.ts';

export interface WriteBackContext {
  readonly tables: EncryptedTables;
  readonly tableNames: readonly string[];
  readonly plan: RotationPlan;
  readonly workers: PageWorkers;
  readonly progress: Progress;
}

/** What one commit writes, and how many rows it rotates. */
export interface OneCommit {
  readonly statements: readonly Statement[];
  readonly rowsRotated: number;
}

/**
 * Reads all rows once more and gives the statements that rotate them. The last of each table asserts that it then holds
 * what was read and sealed here and nothing else, so that a write which came between makes the whole batch fail.
 * Null where a row that has come since the gate opens with neither key.
 */
export async function prepareOneCommit({ tables, tableNames, plan, workers }: WriteBackContext): Promise<OneCommit | null> {
  const statements: Statement[] = [];
  const expected = new Map<string, ExpectedRow[]>(tableNames.map((table) => [table, []]));
  let rowsRotated = 0;
  for await (const page of workers.sealAll(namedPages(tables, tableNames))) {
    if (page.rowsFailed > 0) return null;
    expected.get(page.table)?.push(...page.expected);
    rowsRotated += page.rowsRotated;
    statements.push(...page.replacements.map((json) => replaceStatement(page.table, plan.to.id, json)));
  }
  for (const [table, rows] of expected) statements.push(...tableStateStatements(table, rows));
  return { statements, rowsRotated };
}

/**
 * Goes through all rows and hands over, chunk by chunk, the statement that rotates them. A row that somebody replaced
 * meanwhile is left to the next pass.
 */
export async function writeChunks(
  { tables, tableNames, plan, workers, progress }: WriteBackContext,
  write: (chunk: Statement) => Promise<void>,
): Promise<void> {
  for await (const page of workers.sealAll(namedPages(tables, tableNames))) {
    for (const json of page.replacements) await write(replaceStatement(page.table, plan.to.id, json));
    progress.advance(page.rows);
  }
}
