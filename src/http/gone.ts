/** Signals that nobody waits for an answer any more, so that long work for it can end. */

import type { FastifyReply } from 'fastify';
import { StorageUnavailableError } from '../errors.ts';

/** Aborted once the answer has been sent, or the caller has gone. */
export function goneSignal(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  const abort = (): void => gone.abort(new StorageUnavailableError('Nobody waits for the answer.'));
  if (reply.raw.destroyed) abort();
  else reply.raw.once('close', abort);
  return gone.signal;
}
