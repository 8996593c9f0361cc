/** Requests to a libSQL server, each of which ends when the attempt that it belongs to is given up. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { type Client, createClient, type InValue } from '@libsql/client';
import { decodeBytesAtOnce, handleEveryStep } from './client-repairs.ts';
import type { Connection, Result, SqlStatement } from './connection.ts';

handleEveryStep();
decodeBytesAtOnce();

/** Ends the requests of the attempt that it belongs to: the client itself has no way to give one up. */
const attemptSignal = new AsyncLocalStorage<AbortSignal>();

export class ServerConnection implements Connection {
  readonly #client: Client;

  /** Throws where the URL cannot be one of a server. */
  constructor(url: string, authToken: string | undefined, maxRequests: number) {
    this.#client = createClient({
      url,
      ...(authToken === undefined ? {} : { authToken }),
      // Not 'number', which throws for an integer above 2^53, after the fact.
      intMode: 'bigint',
      concurrency: maxRequests,
      fetch: fetchUncompressed,
    });
  }

  async execute(statement: SqlStatement): Promise<Result> {
    return this.#client.execute(toSent(statement));
  }

  async batch(statements: readonly SqlStatement[]): Promise<Result[]> {
    return this.#client.batch(statements.map(toSent), 'write');
  }

  async close(): Promise<void> {
    this.#client.close();
  }
}

/** Bytes as the text that they are: see `Argument` in connection.ts. */
function toSent({ sql, args = [] }: SqlStatement): { sql: string; args: InValue[] } {
  return { sql, args: args.map((value) => (value instanceof Uint8Array ? toText(value) : value)) };
}

function toText({ buffer, byteOffset, byteLength }: Uint8Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString('utf8');
}

/** Does `work`, and gives up its requests once the signal says so. */
export function withSignal<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  return attemptSignal.run(signal, work);
}

/** A server that may compress its answers spends ten times as long on ciphertext, which hardly shrinks, as on the query. */
function fetchUncompressed(request: Request): Promise<Response> {
  request.headers.set('accept-encoding', 'identity');
  return fetch(request, { signal: attemptSignal.getStore() ?? null });
}
