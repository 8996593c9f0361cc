/** Requests to a libSQL server, each of which ends when its attempt is abandoned. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { type Client, createClient, type InValue } from '@libsql/client';
import { decodeBytesAtOnce, handleEveryStep } from './client-repairs.ts';
import type { Connection, Result, SqlStatement } from './connection.ts';

handleEveryStep();
decodeBytesAtOnce();

/** Aborts the requests of the current attempt: the client itself cannot cancel one. */
const attemptSignal = new AsyncLocalStorage<AbortSignal>();

export class ServerConnection implements Connection {
  readonly #client: Client;

  /** Throws if the URL cannot be that of a server. */
  constructor(url: string, authToken: string | undefined, maxRequests: number) {
    this.#client = createClient({
      url,
      ...(authToken === undefined ? {} : { authToken }),
      // Not 'number': it throws for an integer above 2^53, after the statement has run.
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

/** Sends bytes as the text they encode; see `Argument` in connection.ts. */
function toSent({ sql, args = [] }: SqlStatement): { sql: string; args: InValue[] } {
  return { sql, args: args.map((value) => (value instanceof Uint8Array ? toText(value) : value)) };
}

function toText({ buffer, byteOffset, byteLength }: Uint8Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString('utf8');
}

/** Runs `work`, and aborts its requests when the signal fires. */
export function withSignal<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  return attemptSignal.run(signal, work);
}

/** A server allowed to compress spends ten times as long on compressing ciphertext, which hardly shrinks, as on the query. */
function fetchUncompressed(request: Request): Promise<Response> {
  request.headers.set('accept-encoding', 'identity');
  return fetch(request, { signal: attemptSignal.getStore() ?? null });
}
