/**
 * How long a request may take to arrive: a minute, so that nobody holds connections open by sending slowly. A route that takes
 * large bodies may allow an hour, after it has seen who sends it, for as long as bytes keep coming.
 */

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { answerUnparsable } from './errors.ts';
import { unreadMs } from './unread.ts';

export interface ReceiveLimits {
  /** For the body of any request. */
  readonly bodyMs: number;
  /** For a large body. */
  readonly largeBodyMs: number;
  /** Within which a large body must have brought at least one more byte. */
  readonly stallMs: number;
}

const defaultLimits: ReceiveLimits = { bodyMs: 60_000, largeBodyMs: 3_600_000, stallMs: 60_000 };

declare module 'fastify' {
  interface FastifyRequest {
    /** Of a request that has a body; otherwise null. */
    arrival: Arrival | null;
  }
}

/** Node's own limit holds for all requests of a server alike, and is off but for their headers: see createHttpServer. */
export function addReceiving(app: FastifyInstance, limits = defaultLimits): void {
  app.decorateRequest('arrival', null);
  app.addHook('onRequest', (request, reply, done) => {
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
    if (length !== '0' || encoding !== undefined) request.arrival = new Arrival(request, reply, limits);
    done();
  });
}

/** A body on its way: where it is late, its connection ends. */
class Arrival {
  readonly #request: FastifyRequest;
  readonly #reply: FastifyReply;
  readonly #limits: ReceiveLimits;
  #timer: NodeJS.Timeout;

  constructor(request: FastifyRequest, reply: FastifyReply, limits: ReceiveLimits) {
    this.#request = request;
    this.#reply = reply;
    this.#limits = limits;
    this.#timer = setTimeout(() => this.#giveUp(), limits.bodyMs);
    // Once it has arrived whole, or its connection has gone.
    request.raw.once('close', () => clearTimeout(this.#timer));
  }

  /** To be called once the caller is known. */
  allowLarge(): void {
    const { raw } = this.#request;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#giveUp(), this.#limits.largeBodyMs);
    raw.setTimeout(this.#limits.stallMs, () => this.#giveUp());
    raw.once('end', () => raw.setTimeout(unreadMs));
  }

  #giveUp(): void {
    const { id, raw } = this.#request;
    // A route that reads no body leaves it lying, though it has come.
    if (raw.complete) return;
    const late = Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
    // One that was refused before its body had come has its answer.
    if (!this.#reply.raw.headersSent) answerUnparsable(late, raw.socket, id);
    raw.socket.destroySoon();
  }
}
