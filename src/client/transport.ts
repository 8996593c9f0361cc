/**
 * One request and its complete answer over a pool of kept-alive connections: returns an answer, or throws an error of the
 * client's family.
 */

import { EventEmitter } from 'node:events';
import { Pool } from 'undici';
import { type IsMeant, isFields } from './answers.ts';
import { createError, isOwnType, VaultClientError, type VaultErrorFields, type VaultErrorType } from './errors.ts';
import type { ErrorBody } from './wire.ts';

/** Below the vault's own 72 seconds, so that no request is sent on a connection that the vault is closing. */
const keepAliveMs = 60_000;
const connectTimeoutMs = 3_000;
/** A connection stays with one replica: renewing it this often gives added replicas their share. */
const connectionLifetimeMs = 300_000;
/** Above any answer of the vault: the content of an 8 MiB body, fully escaped. */
const maxAnswerBytes = 64 * 1024 * 1024;
/** Limit for answers about one key, and for errors: a value of 64 KiB, escaped. */
const maxShortAnswerBytes = 1024 * 1024;
/** Messages are logged: one with more characters does not come from the vault, and is cut. */
const maxMessageLength = 4_096;
const printable = /^[\x21-\x7e]+$/;

export interface Call {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | null | undefined>>;
  readonly body?: unknown;
  /** Whether an answer belongs to this call: a proxy that is out of step may deliver another's. */
  readonly isMeant: IsMeant;
  /** Whether the answer is about at most one key. */
  readonly isShort?: boolean;
}

export interface CallOptions {
  /** Aborts the call, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Appears in the vault's log. A call without one gets an id of its own. */
  readonly requestId?: string | undefined;
}

interface AttemptOptions extends CallOptions {
  readonly requestId: string;
  readonly timeoutMs: number;
}

export class Transport {
  readonly #pool: Pool;
  readonly #basePath: string;
  readonly #authorization: string;

  /** Throws TypeError, never with the token in its message. */
  constructor(url: string, token: string, connections: number) {
    const { origin, pathname } = parseUrl(url);
    // Without types an unset variable arrives here, and would be sent as the token `undefined`.
    if (typeof token !== 'string' || !printable.test(token)) {
      throw new TypeError('token must be set, to printable ASCII without spaces.');
    }
    this.#authorization = `Bearer ${token}`;
    this.#basePath = pathname.replace(/\/$/, '');
    this.#pool = new Pool(origin, {
      connections,
      pipelining: 1,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      clientTtl: connectionLifetimeMs,
      connect: { timeout: connectTimeoutMs },
      // The deadline of the attempt covers both.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  /**
   * Rejects with the signal's reason if it aborts, with TypeError for a body that is not JSON, and otherwise with
   * VaultClientError.
   */
  async attempt(call: Call, { signal, requestId, timeoutMs }: AttemptOptions): Promise<unknown> {
    signal?.throwIfAborted();
    const body = call.body === undefined ? null : JSON.stringify(call.body);
    // The HTTP library also accepts an emitter, which costs a fraction of an AbortController.
    const ending = new EventEmitter();
    let isLate = false;
    const abort = (): void => void ending.emit('abort');
    const timer = setTimeout(() => {
      isLate = true;
      abort();
    }, timeoutMs);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await this.#exchange(call, body, requestId, ending);
    } catch (error) {
      signal?.throwIfAborted();
      if (isLate) throw unanswered('timeout', `The vault did not answer within ${timeoutMs} ms.`, requestId);
      if (error instanceof VaultClientError) throw error;
      const code = codeOf(error);
      const message = `The vault cannot be reached${code === undefined ? '' : ` (${code})`}.`;
      throw unanswered('connection_error', message, requestId, code === undefined ? undefined : { code });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  /** Closes each connection once its request is answered. */
  async close(): Promise<void> {
    await this.#pool.close();
  }

  async #exchange(call: Call, body: string | null, requestId: string, signal: EventEmitter): Promise<unknown> {
    const { method, path, query } = call;
    const answer = await this.#pool.request({
      method,
      path: this.#basePath + path + toQueryString(query),
      headers: {
        authorization: this.#authorization,
        accept: 'application/json',
        ...(body !== null && { 'content-type': 'application/json' }),
        'x-request-id': requestId,
      },
      body,
      signal,
    });
    const isDone = answer.statusCode >= 200 && answer.statusCode < 300;
    const content = await readJson(answer.body, isDone && !call.isShort ? maxAnswerBytes : maxShortAnswerBytes);
    if (isDone && isFields(content) && call.isMeant(content)) return content;
    throw refusal(answer.statusCode, content, requestId, secondsOf(answer.headers['retry-after']));
  }
}

function parseUrl(url: string): URL {
  if (!URL.canParse(url)) throw new TypeError('url must be that of the vault, such as http://vault.internal:4100.');
  const parsed = new URL(url);
  if (!['http:', 'https:'].includes(parsed.protocol)) throw new TypeError('url must begin with http:// or https://.');
  if (parsed.username !== '' || parsed.password !== '' || parsed.search !== '' || parsed.hash !== '') {
    throw new TypeError('url must hold neither credentials nor a query.');
  }
  return parsed;
}

function toQueryString(query: Call['query'] = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null) parameters.set(name, String(value));
  }
  return parameters.size === 0 ? '' : `?${parameters}`;
}

/** Undefined if the body is not JSON, or is longer than `maxBytes`; then the rest is not read, and the connection is closed. */
async function readJson(body: AsyncIterable<Buffer>, maxBytes: number): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of body) {
    length += chunk.length;
    if (length > maxBytes) return undefined;
    chunks.push(chunk);
  }
  return parseJson(Buffer.concat(chunks, length).toString());
}

/** Undefined if the text is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(status: number, content: unknown, requestId: string, retryAfterSeconds: number | undefined): VaultClientError {
  const error = (content as Partial<ErrorBody> | null | undefined)?.error;
  if (typeof error?.type !== 'string' || isOwnType(error.type) || typeof error.message !== 'string') {
    const message = `What answered with status ${status} is not the vault: check the url, and any proxy before it.`;
    return createError(message, { type: 'unexpected_answer', status, requestId, retryAfterSeconds });
  }
  const { type, message, details } = error;
  return createError(message.slice(0, maxMessageLength), { type, status, requestId, details, retryAfterSeconds });
}

/** The vault sends seconds; a proxy may send a date. */
function secondsOf(header: string | string[] | undefined): number | undefined {
  if (typeof header !== 'string') return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

function unanswered(
  type: VaultErrorType,
  message: string,
  requestId: string,
  details?: VaultErrorFields['details'],
): VaultClientError {
  return createError(message, { type, status: null, requestId, details });
}

/** Only the code: the rest of an HTTP library's error may contain secrets. */
function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}
