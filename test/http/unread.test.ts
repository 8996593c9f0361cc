/** A connection ends that asks without reading the answers; one whose answer takes its time does not. */

import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { limitUnanswered, limitUnread } from '../../src/http/unread.ts';

const request = 'GET / HTTP/1.1\r\nHost: sample\r\n\r\n';

/** Answers after so many milliseconds, with so many bytes. */
async function start(afterMs: number, bytes: number): Promise<Server> {
  const server = createServer(
    limitUnanswered((_request, response) => void setTimeout(() => response.end(Buffer.alloc(bytes)), afterMs)),
  );
  limitUnread(server);
  server.timeout = 300;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return server;
}

function ask(server: Server, isRead: boolean) {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const ended = new Promise<number>((resolve) => {
    let bytes = 0;
    socket.on('close', () => resolve(bytes)).on('error', () => undefined);
    if (isRead) socket.on('data', (chunk) => (bytes += chunk.length));
  });
  onTestFinished(() => void socket.destroy());
  socket.write(request);
  return { socket, ended };
}

const connectionsOf = (server: Server): Promise<number> =>
  new Promise((resolve) => server.getConnections((_error, count) => resolve(count)));

it('an answer of which nothing is taken for a time ends its connection', async () => {
  const server = await start(0, 64 * 1024 * 1024);
  ask(server, false);
  await expect.poll(() => connectionsOf(server)).toBe(1);
  await expect.poll(() => connectionsOf(server)).toBe(0);
});

it('an answer that takes longer than that to come is waited for', async () => {
  const server = await start(1_500, 10);
  const { socket } = ask(server, true);
  await new Promise((resolve) => socket.once('data', resolve));
  expect(await connectionsOf(server)).toBe(1);
});

it('a connection that was answered, and is idle for as long as one is kept, ends', async () => {
  const server = await start(0, 10);
  server.keepAliveTimeout = 300;
  expect(await ask(server, true).ended).toBeGreaterThan(10);
});
