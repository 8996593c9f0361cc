/**
 * Ends connections that send requests without reading the answers, and would hold memory and file descriptors for as long as they
 * like.
 */

import type { RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Requests that may await their answers on one connection; a client that pipelines sends a handful. */
const maxUnanswered = 32;
/** The time within which some of an answer must be read. A connection whose timeout is changed must be reset to this one. */
export const unreadMs = 60_000;

interface Unanswered {
  count: number;
  /** Responses behind the one being sent. */
  readonly queued: Set<ServerResponse>;
}

const unanswered = new WeakMap<Socket, Unanswered>();

/** Wraps a listener: a connection that sends one request too many ends, and that request is not begun. */
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

/**
 * Ends connections that are idle for too long or read nothing of an answer, but not those whose answer is still being prepared.
 */
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

/** What Node does to its responses when a connection ends; Node 20 does it only for the response being sent. */
function close(response: ServerResponse): void {
  if (response.socket !== null) return;
  Object.assign(response, { destroyed: true, _closed: true });
  response.emit('close');
}
