/**
 * Limits how long a request may take to arrive: one minute, so that nobody holds connections open by sending slowly. A route for
 * large bodies may allow an hour, once the caller is known, as long as bytes keep coming.
 */

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { answerUnparsable } from './errors.ts';
import { unreadMs } from './unread.ts';

export interface ReceiveLimits {
  /** For the body of any request. */
  readonly bodyMs: number;
  /** For a large body. */
  readonly largeBodyMs: number;
  /** The longest pause between two bytes of a large body. */
  readonly stallMs: number;
}

const defaultLimits: ReceiveLimits = { bodyMs: 60_000, largeBodyMs: 3_600_000, stallMs: 60_000 };

declare module 'fastify' {
  interface FastifyRequest {
    /** For a request that has a body; otherwise null. */
    arrival: Arrival | null;
  }
}

/** Node's own limit is the same for all requests of a server, and is disabled except for their headers: see createHttpServer. */
export function addReceiving(app: FastifyInstance, limits = defaultLimits): void {
  app.decorateRequest('arrival', null);
  app.addHook('onRequest', (request, reply, done) => {
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers;
    if (length !== '0' || encoding !== undefined) request.arrival = new Arrival(request, reply, limits);
    done();
  });
}

/** A body that is arriving: if it is late, its connection ends. */
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
    // Emitted once the body has arrived completely, or the connection has closed.
    request.raw.once('close', () => clearTimeout(this.#timer));
  }

  /** Call only once the caller is known. */
  allowLarge(): void {
    const { raw } = this.#request;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#giveUp(), this.#limits.largeBodyMs);
    raw.setTimeout(this.#limits.stallMs, () => this.#giveUp());
    raw.once('end', () => raw.setTimeout(unreadMs));
  }

  #giveUp(): void {
    const { id, raw } = this.#request;
    // A route that does not read the body leaves it unread, although it has arrived.
    if (raw.complete) return;
    const late = Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
    // A request refused before its body had arrived already has its answer.
    if (!this.#reply.raw.headersSent) answerUnparsable(late, raw.socket, id);
    raw.socket.destroySoon();
  }
}
