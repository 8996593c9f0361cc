/**
 * How long a request may take to arrive: a minute, so that nobody holds connections open by sending slowly. A route that takes
 * large bodies may allow an hour, after it has seen who sends it, for as long as bytes keep coming.
 */

import type { Socket } from 'node:net';
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
/** How often those that are arriving are looked at, in parts of the shortest limit. */
const looksPerLimit = 10;

declare module 'fastify' {
  interface FastifyRequest {
    /** While its body is arriving; otherwise null. */
    arrival: Arrival | null;
  }
}

/** All times by `performance.now()`. */
interface Arrival {
  readonly limits: ReceiveLimits;
  readonly startedAtMs: number;
  isLarge: boolean;
  /** How much of a large body the connection has brought, and when that was last more than before. */
  bytesRead: number;
  grownAtMs: number;
}

/** Node's own limit holds for all requests of a server alike, and is off but for their headers: see createHttpServer. */
export function addReceiving(app: FastifyInstance, limits = defaultLimits): void {
  const arriving = new Arriving();
  app.decorateRequest('arrival', null);
  app.addHook('onRequest', (request, _reply, done) => {
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
    if (length !== '0' || encoding !== undefined) {
      request.arrival = { limits, startedAtMs: performance.now(), isLarge: false, bytesRead: 0, grownAtMs: 0 };
      arriving.add(request);
    }
    done();
  });
  app.addHook('preValidation', (request, _reply, done) => {
    if (request.raw.complete) arriving.remove(request);
    done();
  });
  const timer = setInterval(() => arriving.endLate(), Math.min(limits.bodyMs, limits.stallMs) / looksPerLimit).unref();
  app.addHook('onClose', async () => clearInterval(timer));
}

/**
 * The requests whose bodies are arriving: on a connection one at a time. A set of them would make its table anew every few
 * requests, and V8 keeps what hangs on an old one until it collects everything.
 */
class Arriving {
  readonly #byConnection = new Map<Socket, FastifyRequest | undefined>();

  add(request: FastifyRequest): void {
    const { socket } = request.raw;
    if (!this.#byConnection.has(socket)) socket.once('close', () => this.#byConnection.delete(socket));
    this.#byConnection.set(socket, request);
  }

  /** Does nothing where the next one is arriving already. */
  remove(request: FastifyRequest): void {
    const { socket } = request.raw;
    if (this.#byConnection.get(socket) === request) this.#byConnection.set(socket, undefined);
  }

  endLate(): void {
    for (const request of this.#byConnection.values()) {
      if (request === undefined) continue;
      const isOver = request.raw.complete || request.raw.destroyed;
      const isGivenUp = !isOver && isLate(request);
      if (isGivenUp) giveUp(request);
      if (isOver || isGivenUp) this.remove(request);
    }
  }
}

/** To be called once the caller is known. */
export function allowLargeBody({ arrival }: FastifyRequest): void {
  if (arrival !== null) arrival.isLarge = true;
}

function isLate({ arrival, raw }: FastifyRequest): boolean {
  if (arrival === null) return false;
  const { limits, startedAtMs, isLarge } = arrival;
  const now = performance.now();
  if (!isLarge) return now - startedAtMs >= limits.bodyMs;
  const { bytesRead } = raw.socket;
  if (bytesRead !== arrival.bytesRead) Object.assign(arrival, { bytesRead, grownAtMs: now });
  return now - startedAtMs >= limits.largeBodyMs || now - arrival.grownAtMs >= limits.stallMs;
}

function giveUp({ id, raw }: FastifyRequest): void {
  answerUnparsable(new Error('The request did not arrive in time.'), raw.socket, id);
  raw.socket.destroySoon();
}
