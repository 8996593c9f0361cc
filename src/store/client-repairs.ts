/** Mends what the database client leaves undone, where it would end the process. */

import { BatchStep } from '@libsql/hrana-client';

/**
 * A server that gives a slow transaction's lock to another writer fails every later step of its batch, and its COMMIT. The
 * client looks at the first that failed; Node ends a process in which nobody looks at the others.
 */
export function handleEveryStep(): void {
  const { query, run } = BatchStep.prototype;
  BatchStep.prototype.query = function handledQuery(this: BatchStep, statement) {
    return handled(query.call(this, statement));
  };
  BatchStep.prototype.run = function handledRun(this: BatchStep, statement) {
    return handled(run.call(this, statement));
  };
}

/** The same promise: whoever awaits it still meets its error. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
