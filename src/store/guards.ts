/** Conditions of a batch: where one does not hold at its place, the whole batch is rolled back, and its author told which. */

import { LibsqlBatchError } from '@libsql/client';
import type { Argument, SqlStatement } from './connection.ts';
import { isConstraint } from './failures.ts';

export interface Statement extends SqlStatement {
  /** Names a statement that {@link guard} made. */
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

/** Makes the batch that holds it roll back unless `condition`, an SQL expression, is true at its place in the batch. */
export function guard(name: string, condition: string, args: readonly Argument[] = []): Statement {
  return { sql: `INSERT INTO vault_assertions (failed) SELECT 1 WHERE NOT (${condition})`, args, guard: name };
}

/** Where in a batch a statement broke a constraint, the one of a guard among them; null where the batch did not end so. */
export function brokenAt(error: unknown): number | null {
  return error instanceof LibsqlBatchError && isConstraint(error) ? error.statementIndex : null;
}

/** What a batch ended with: GuardFailedError where that was a guard's doing. */
export function asGuardFailure(error: unknown, batch: readonly Statement[]): unknown {
  const name = batch[brokenAt(error) ?? -1]?.guard;
  return name === undefined ? error : new GuardFailedError(name);
}
