/**
 * Stops without losing a request: those in flight are finished, and each connection may still send the one that was on its way.
 */

import type { Server as HttpServer } from 'node:http';
import { Server as NetServer } from 'node:net';
import type { FastifyInstance } from 'fastify';

/** How long an idle connection stays open for a request that its client may be sending, and how often that is checked. */
const idleGraceMs = 1_000;
/** When connections are ended whatever they are doing: after long work is interrupted, and before the process must end. */
const defaultDrainMs = 18_000;

/**
 * Makes `app.close()` accept no new connections, answer with `Connection: close`, and wait up to `drainMs` for the last
 * connection to end.
 */
export function addDraining(app: FastifyInstance, drainMs = defaultDrainMs): void {
  let isClosing = false;
  app.addHook('onSend', (_request, reply, _payload, done) => {
    if (isClosing) reply.header('Connection', 'close');
    done();
  });
  app.addHook('preClose', async () => {
    isClosing = true;
    await drain(app.server, drainMs);
  });
}

async function drain(server: HttpServer, drainMs: number): Promise<void> {
  // Not the HTTP server's own close: it resets connections that are idle at that moment, and loses a request on its way.
  const ended = new Promise<void>((resolve) => void NetServer.prototype.close.call(server, () => resolve()));
  const reaper = setInterval(() => server.closeIdleConnections(), idleGraceMs);
  const end = setTimeout(() => server.closeAllConnections(), drainMs);
  await ended;
  clearInterval(reaper);
  clearTimeout(end);
}
