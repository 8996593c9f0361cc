/**
 * How long a request may take to arrive: a minute, so that nobody holds connections open by sending slowly. A route that takes
 * large bodies may allow an hour, after it has seen who sends it, for as long as bytes keep coming.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { answerUnparsable } from './errors.ts';

export interface ReceiveLimits {
  /** For the body of any request. */
  readonly bodyMs: number;
  /** For a large body. */
  readonly largeBodyMs: number;
  /** Within which a large body must have brought at least one more byte. */
  readonly stallMs: number;
}

const defaultLimits: ReceiveLimits = { bodyMs: 60_000, largeBodyMs: 3_600_000, stallMs: 60_000 };

/** A request whose body is still arriving. */
interface Arrival {
  readonly limits: ReceiveLimits;
  readonly timers: NodeJS.Timeout[];
}

const arrivals = new WeakMap<FastifyRequest, Arrival>();

/** Node's own limit holds for all requests of a server alike, and is off but for their headers: see createHttpServer. */
export function addReceiving(app: FastifyInstance, limits = defaultLimits): void {
  app.addHook('onRequest', async (request) => {
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
    if (length === '0' && encoding === undefined) return;
    const arrival = { limits, timers: [setTimeout(() => giveUp(request), limits.bodyMs).unref()] };
    arrivals.set(request, arrival);
    request.raw.once('close', () => stop(arrival));
  });
}

/** To be called once the caller is known. */
export function allowLargeBody(request: FastifyRequest): void {
  const arrival = arrivals.get(request);
  if (arrival === undefined) return;
  stop(arrival);
  const { socket } = request.raw;
  let { bytesRead } = socket;
  const watch = (): void => {
    if (socket.bytesRead === bytesRead) giveUp(request);
    bytesRead = socket.bytesRead;
  };
  const { largeBodyMs, stallMs } = arrival.limits;
  arrival.timers.push(setTimeout(() => giveUp(request), largeBodyMs).unref(), setInterval(watch, stallMs).unref());
}

function stop({ timers }: Arrival): void {
  for (const timer of timers.splice(0)) clearTimeout(timer);
}

function giveUp({ id, raw }: FastifyRequest): void {
  if (raw.complete || raw.readableEnded) return;
  answerUnparsable(new Error('The request did not arrive in time.'), raw.socket, id);
  raw.socket.destroySoon();
}
