/** A proxy between a client and its vault that breaks calls on purpose, and records them. */

import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

/** What happens to a call; `after` means that the vault has carried it out. */
export type CallFault =
  | 'none'
  | 'cut before'
  | 'cut after'
  | 'silence'
  /** Carried out once {@link VaultProxy.release} is called. */
  | 'held'
  /** Carried out at once, but answered only after {@link VaultProxy.release}. */
  | 'answer held'
  | { readonly status: number; readonly headers?: Readonly<Record<string, string>>; readonly body: string };

export interface VaultProxy {
  readonly url: string;
  /** Called for every call, with its number from 0. */
  fault: (call: number) => CallFault;
  readonly calls: { readonly method: string; readonly path: string; readonly headers: IncomingHttpHeaders }[];
  /** How many calls their caller abandoned before an answer. */
  abandoned: number;
  /** How many calls and answers are, or were, held back. */
  withheld: number;
  release: () => void;
  readonly connections: () => number;
}

export function refusal(status: number, type: string, headers: Readonly<Record<string, string>> = {}): CallFault {
  return { status, headers, body: JSON.stringify({ error: { type, message: `a ${type}`, request_id: 'r' } }) };
}

export async function startVaultProxy(origin: string): Promise<VaultProxy> {
  let connections = 0;
  const proxy: VaultProxy = {
    url: '',
    fault: () => 'none',
    calls: [],
    abandoned: 0,
    withheld: 0,
    release: () => undefined,
    connections: () => connections,
  };
  const released = new Promise<void>((resolve) => {
    proxy.release = resolve;
  });
  const hold = (): Promise<void> => {
    proxy.withheld += 1;
    return released;
  };
  const server = createServer((incoming, outgoing) => {
    const fault = proxy.fault(proxy.calls.length);
    proxy.calls.push({ method: incoming.method ?? '', path: incoming.url ?? '', headers: incoming.headers });
    outgoing.on('close', () => {
      if (!outgoing.writableEnded && fault !== 'cut before' && fault !== 'cut after') proxy.abandoned += 1;
    });
    void carryOut(origin, incoming, outgoing, fault, hold);
  });
  server.on('connection', () => {
    connections += 1;
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return Object.assign(proxy, { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

async function carryOut(
  origin: string,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  fault: CallFault,
  hold: () => Promise<void>,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  if (fault === 'silence') return;
  if (fault === 'held') await hold();
  if (fault === 'cut before') return void incoming.socket.destroy();
  if (typeof fault === 'object') {
    outgoing.writeHead(fault.status, { 'content-type': 'application/json', ...fault.headers });
    return void outgoing.end(fault.body);
  }
  const { method, headers } = incoming;
  const passed = request(origin + incoming.url, { method, headers, agent: false }, async (answer) => {
    if (fault === 'answer held') await hold();
    if (fault === 'cut after') return void answer.resume().on('end', () => incoming.socket.destroy());
    outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
    return void answer.pipe(outgoing);
  });
  passed.on('error', () => incoming.socket.destroy());
  passed.end(Buffer.concat(chunks));
}
