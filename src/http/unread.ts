/** Ends connections that ask and do not read the answers, which would hold memory and open files for as long as they like. */

import type { RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** So many requests may wait for their answers on one connection; a client that sends before it has read sends a handful. */
const maxUnanswered = 32;
/** Within which some of an answer must be taken. A connection that is given another time of its own is to get this one back. */
export const unreadMs = 60_000;

interface Unanswered {
  count: number;
  /** Behind the one that is being answered. */
  readonly queued: Set<ServerResponse>;
}

const unanswered = new WeakMap<Socket, Unanswered>();

/** The same listener, for those requests that may still come; the connection of one too many ends, and nothing of it is begun. */
export function limitUnanswered(listener: RequestListener): RequestListener {
  return (request, response) => {
    const { socket } = request;
    if (socket.destroyed) return;
    const pending = unanswered.get(socket) ?? watch(socket);
    pending.count += 1;
    if (pending.count > maxUnanswered) return void socket.destroy();
    if (pending.count > 1) pending.queued.add(response);
    response.once('close', () => {
      pending.count -= 1;
      pending.queued.delete(response);
    });
    listener(request, response);
  };
}

/** Ends connections that are idle for too long, and those that take nothing of an answer; not those whose answer takes its time. */
export function limitUnread(server: Server): void {
  server.setTimeout(unreadMs, (socket) => {
    const isWaiting = (unanswered.get(socket)?.count ?? 0) > 0 && socket.writableLength === 0;
    if (!isWaiting) socket.destroy();
  });
}

function watch(socket: Socket): Unanswered {
  const pending: Unanswered = { count: 0, queued: new Set() };
  unanswered.set(socket, pending);
  socket.once('close', () => {
    for (const response of pending.queued) close(response);
  });
  return pending;
}

/** What Node does where a connection ends; version 20 does it for the one answer alone whose turn it is. */
function close(response: ServerResponse): void {
  if (response.socket !== null) return;
  Object.assign(response, { destroyed: true, _closed: true });
  response.emit('close');
}
