/**
 * How long a request may take to arrive: a minute, so that nobody holds connections open by sending slowly. A route that takes
 * large bodies may allow one more, after it has seen who sends it, for as long as its bytes keep coming.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { answerUnparsable } from './errors.ts';

const receiveTimeoutMs = 60_000;
/** A large body as a whole. */
const largeReceiveTimeoutMs = 3_600_000;

/** What stops waiting for the rest of a request that is still arriving. */
const patience = new WeakMap<FastifyRequest, () => void>();

/** Node's own limit is for all of a server's requests alike, and is therefore off but for their headers: see createHttpServer. */
export function addReceiving(app: FastifyInstance): void {
  app.addHook('onRequest', async (request) => {
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
    if (length === '0' && encoding === undefined) return;
    const timer = setTimeout(() => giveUp(request), receiveTimeoutMs).unref();
    stopWith(request, () => clearTimeout(timer));
    request.raw.once('close', () => patience.get(request)?.());
  });
}

/** To be called once the caller is known: its body may take an hour, and no minute without a byte. */
export function allowLargeBody(request: FastifyRequest): void {
  if (patience.get(request) === undefined) return;
  patience.get(request)?.();
  let { bytesRead } = request.raw.socket;
  const timer = setTimeout(() => giveUp(request), largeReceiveTimeoutMs).unref();
  const watch = setInterval(() => {
    if (request.raw.socket.bytesRead === bytesRead) giveUp(request);
    bytesRead = request.raw.socket.bytesRead;
  }, receiveTimeoutMs).unref();
  stopWith(request, () => {
    clearTimeout(timer);
    clearInterval(watch);
  });
}

function stopWith(request: FastifyRequest, stop: () => void): void {
  patience.set(request, stop);
}

function giveUp({ raw }: FastifyRequest): void {
  if (raw.complete) return;
  answerUnparsable(new Error('The request did not arrive in time.'), raw.socket);
  raw.socket.destroySoon();
}
