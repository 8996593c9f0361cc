/** Mends what the database client leaves undone: what would end the process, or is a sixth of a rotation's time. */

import { BatchStep } from '@libsql/hrana-client';
import { Base64 } from 'js-base64';

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

/** The client's own way cleans the text twice with regular expressions and goes through it character by character. */
export function decodeBytesAtOnce(): void {
  Base64.toUint8Array = (text) => new Uint8Array(Buffer.from(text, 'base64'));
}

/** The same promise: whoever awaits it still meets its error. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
