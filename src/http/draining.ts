/** Stops without losing a request: those in flight are finished, and each connection may send the one that was on its way. */

import type { Server as HttpServer } from 'node:http';
import { Server as NetServer } from 'node:net';
import type { FastifyInstance } from 'fastify';

/** How long an idle connection stays open for a request that its client may be sending, and how often that is looked at. */
const idleGraceMs = 1_000;
/** After which connections end whatever they are at: behind the time at which long work is interrupted, before the process's own end. */
const defaultDrainMs = 18_000;

/** Makes `app.close()` take no new connection, answer with `Connection: close`, and wait for the last connection to end, at most for `drainMs`. */
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
  // Not the HTTP server's own close: that resets connections which are idle at this very moment, and a request on its way.
  const ended = new Promise<void>((resolve) => void NetServer.prototype.close.call(server, () => resolve()));
  const reaper = setInterval(() => server.closeIdleConnections(), idleGraceMs);
  const end = setTimeout(() => server.closeAllConnections(), drainMs);
  await ended;
  clearInterval(reaper);
  clearTimeout(end);
}
