/** A proxy between the vault and its database server that breaks requests on purpose. */

import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished } from 'vitest';

/** What happens to a request, and whether the server sees it. */
export type Fault =
  | 'none'
  | 'slow'
  /** Delayed by {@link msPerMebibyte}, as on a slow line. */
  | 'slow by size'
  | 'cut before'
  | 'cut after'
  | 'half an answer'
  | '500 before'
  | '500 after'
  | '401 before'
  | 'no JSON'
  | 'silence before'
  | 'silence after'
  /** Held back until {@link FaultProxy.release} and then carried out, whether or not anyone still waits for the answer. */
  | 'late'
  /** As `late`, but the sender is told at once that the request failed. */
  | '502, then late';

export interface FaultProxy {
  readonly url: string;
  /** Called for every request that carries SQL, with its body. */
  fault: (body: string) => Fault;
  /** Releases the requests held back, and returns how many there were once the server has carried them out. */
  release: () => Promise<number>;
}

const slowMs = 300;
/** Below the 1,000 ms that the vault waits longer for each MiB that it sends. */
const msPerMebibyte = 800;

export async function startFaultProxy(serverPort: number): Promise<FaultProxy> {
  let held: (() => Promise<unknown>)[] = [];
  const proxy = {
    url: '',
    fault: (_body: string): Fault => 'none',
    release: async (): Promise<number> => {
      const released = held;
      held = [];
      await Promise.all(released.map((each) => each()));
      return released.length;
    },
  };
  const server: Server = createServer((incoming, outgoing) => {
    void readAll(incoming).then((body) => {
      const fault = incoming.method === 'POST' ? proxy.fault(body.toString('utf8')) : 'none';
      if (fault === '502, then late') outgoing.writeHead(502).end('broken on purpose');
      if (fault.endsWith('late')) held.push(() => carryOut(incoming, outgoing, body, serverPort));
      else void handle(incoming, outgoing, body, serverPort, fault);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  proxy.url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return proxy;
}

async function handle(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  body: Buffer,
  port: number,
  fault: Fault,
): Promise<void> {
  if (fault === 'slow by size') await sleep((body.length / 1_048_576) * msPerMebibyte);
  if (fault === 'cut before') return void incoming.socket.destroy();
  if (fault === '500 before') return void outgoing.writeHead(500).end('{"error":"broken on purpose"}');
  if (fault === '401 before') return void outgoing.writeHead(401).end('{"error":"refused on purpose"}');
  if (fault === 'silence before') return;
  const answer = await forward(incoming, body, port);
  if (fault === 'slow') await sleep(slowMs);
  if (fault === 'cut after' || answer === null) return void incoming.socket.destroy();
  if (fault === '500 after') return void outgoing.writeHead(502).end('broken on purpose');
  if (fault === 'no JSON') return void outgoing.writeHead(200, { 'content-type': 'application/json' }).end('<html>');
  if (fault === 'silence after') return;
  outgoing.writeHead(answer.status, { 'content-type': 'application/json', 'content-length': answer.body.length });
  if (fault !== 'half an answer') return void outgoing.end(answer.body);
  outgoing.write(answer.body.subarray(0, Math.floor(answer.body.length / 2)));
  setTimeout(() => incoming.socket.destroy(), 10);
}

async function carryOut(incoming: IncomingMessage, outgoing: ServerResponse, body: Buffer, port: number): Promise<void> {
  const answer = await forward(incoming, body, port);
  if (answer === null || outgoing.headersSent || outgoing.destroyed) return;
  outgoing
    .writeHead(answer.status, { 'content-type': 'application/json', 'content-length': answer.body.length })
    .end(answer.body);
}

async function forward(incoming: IncomingMessage, body: Buffer, port: number): Promise<{ status: number; body: Buffer } | null> {
  const { method, url, headers } = incoming;
  return new Promise((resolve) => {
    const plain = {
      'content-type': headers['content-type'],
      authorization: headers.authorization,
      'content-length': body.length,
    };
    const sent = Object.fromEntries(Object.entries(plain).filter(([, value]) => value !== undefined));
    const upstream = request({ host: '127.0.0.1', port, method, path: url, headers: sent }, (answer) => {
      readAll(answer).then(
        (received) => resolve({ status: answer.statusCode ?? 500, body: received }),
        () => resolve(null),
      );
    });
    upstream.once('error', () => resolve(null));
    upstream.end(body);
  });
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
