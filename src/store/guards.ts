/**
 * Conditions within a batch: if one does not hold at its point, the whole batch is rolled back, and the error names the
 * condition.
 */

import { LibsqlBatchError } from '@libsql/client';
import type { Argument, SqlStatement } from './connection.ts';
import { isConstraint } from './failures.ts';

export interface Statement extends SqlStatement {
  /** The name given to {@link guard}, on a statement that it made. */
  readonly guard?: string;
}

/** A batch was rolled back because the condition of a {@link guard} in it did not hold. */
export class GuardFailedError extends Error {
  readonly guard: string;

  constructor(guard: string) {
    super(`The condition ${guard} did not hold; nothing was written.`);
    this.guard = guard;
  }
}

/** A statement that rolls its batch back unless `condition`, an SQL expression, is true at that point in the batch. */
export function guard(name: string, condition: string, args: readonly Argument[] = []): Statement {
  return { sql: `INSERT INTO vault_assertions (failed) SELECT 1 WHERE NOT (${condition})`, args, guard: name };
}

/**
 * The index of the statement that broke a constraint, which a failed guard does too; null if the batch failed for another reason.
 */
export function brokenAt(error: unknown): number | null {
  return error instanceof LibsqlBatchError && isConstraint(error) ? error.statementIndex : null;
}

/** The error of a batch: GuardFailedError if a guard caused it. */
export function asGuardFailure(error: unknown, batch: readonly Statement[]): unknown {
  const name = batch[brokenAt(error) ?? -1]?.guard;
  return name === undefined ? error : new GuardFailedError(name);
}
