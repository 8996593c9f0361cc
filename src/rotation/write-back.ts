/** Writes the rotated rows back, by compare-and-swap: in one commit with the switch of the active key, or in chunks after it. */

import { coveredPages } from '../keys/covered-rows.ts';
import type { Statement } from '../store/database.ts';
import {
  type EncryptedRow,
  type EncryptedTables,
  type ExpectedRow,
  type Replacement,
  replaceStatements,
  tableStateStatements,
} from '../store/encrypted-tables.ts';
import type { RowClassifier } from './classify.ts';
import type { RotationPlan } from './plan.ts';
import type { Progress } from './progress.ts';

export interface WriteBackContext {
  readonly tables: EncryptedTables;
  readonly tableNames: readonly string[];
  readonly plan: RotationPlan;
  readonly classifier: RowClassifier;
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
export async function prepareOneCommit(context: WriteBackContext): Promise<OneCommit | null> {
  const { tableNames, plan } = context;
  const statements: Statement[] = [];
  const expected = new Map<string, ExpectedRow[]>(tableNames.map((table) => [table, []]));
  let rowsRotated = 0;
  for await (const { table, rows } of pages(context)) {
    const sealed = sealPage(context, table, rows);
    if (sealed.rowsFailed > 0) return null;
    expected.get(table)?.push(...sealed.expected);
    rowsRotated += sealed.replacements.length;
    statements.push(...replaceStatements(table, plan.to.id, sealed.replacements));
  }
  for (const [table, rows] of expected) statements.push(...tableStateStatements(table, rows));
  return { statements, rowsRotated };
}

/**
 * Goes through all rows and hands over, chunk by chunk, the statement that rotates them. A row that somebody replaced
 * meanwhile is left to the next pass.
 */
export async function writeChunks(context: WriteBackContext, write: (chunk: Statement) => Promise<void>): Promise<void> {
  for await (const { table, rows } of pages(context)) {
    const { replacements } = sealPage(context, table, rows);
    for (const statement of replaceStatements(table, context.plan.to.id, replacements)) await write(statement);
    context.progress.advance(rows.length);
  }
}

function pages({ tables, tableNames }: WriteBackContext): ReturnType<typeof coveredPages> {
  return coveredPages(
    tables,
    tableNames.map((table) => ({ table })),
  );
}

interface SealedPage {
  readonly replacements: readonly Replacement[];
  readonly expected: readonly ExpectedRow[];
  readonly rowsFailed: number;
}

function sealPage({ classifier }: WriteBackContext, table: string, rows: readonly EncryptedRow[]): SealedPage {
  const replacements: Replacement[] = [];
  const expected: ExpectedRow[] = [];
  let rowsFailed = 0;
  for (const row of rows) {
    const rowClass = classifier.classify(table, row);
    if (rowClass.kind === 'to_rotate') {
      const replacement = classifier.seal(table, row, rowClass.plaintext);
      replacements.push(replacement);
      expected.push([row.rowId, replacement.sealed.authTag]);
    } else {
      if (rowClass.kind === 'failed') rowsFailed += 1;
      expected.push([row.rowId, rowClass.kind === 'rotated' ? row.authTag : null]);
    }
  }
  return { replacements, expected, rowsFailed };
}
