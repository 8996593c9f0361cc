/** Patches two faults of the database client: one that ends the process, and one that takes a sixth of a rotation's time. */

import { BatchStep } from '@libsql/hrana-client';
import { Base64 } from 'js-base64';

/**
 * When a server gives a slow transaction's lock to another writer, every later step of the batch fails, COMMIT included. The
 * client awaits only the first failure, and Node ends a process on the unhandled rejections of the others.
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

/** The client's own decoder cleans the text twice with regular expressions and then goes through it character by character. */
export function decodeBytesAtOnce(): void {
  Base64.toUint8Array = (text) => new Uint8Array(Buffer.from(text, 'base64'));
}

/** Returns the same promise: a caller that awaits it still gets its error. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
