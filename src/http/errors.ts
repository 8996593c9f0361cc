/** The only table from error codes to HTTP statuses, and the only shape of an error answer. */

import { maxHeaderSize } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { FastifySchemaValidationError } from 'fastify/types/schema.js';
import { formats } from '../contract/formats.ts';
import { type ErrorAnswer, type ErrorCode, NotFoundError, VaultError } from '../errors.ts';

export const statusByCode: Readonly<Record<ErrorCode, number>> = {
  validation_error: 400,
  auth_error: 401,
  forbidden: 403,
  not_found: 404,
  rotation_in_progress: 409,
  replica_missing_key: 409,
  payload_too_large: 413,
  unsupported_media_type: 415,
  rate_limited: 429,
  decrypt_failed: 422,
  decrypt_gate_failed: 422,
  uncovered_table: 422,
  invalid_snapshot: 422,
  internal_error: 500,
  configuration_error: 503,
  storage_unavailable: 503,
};

/** Fastify's own refusals by status; any other below 500 is a validation error. */
const codeByFrameworkStatus: Readonly<Record<number, { code: ErrorCode; message: string }>> = {
  413: { code: 'payload_too_large', message: 'The body is larger than 8 MiB.' },
  414: { code: 'not_found', message: 'There is nothing under so long a name.' },
  415: { code: 'unsupported_media_type', message: 'Send the body as Content-Type: application/json.' },
};

declare module 'fastify' {
  interface FastifyRequest {
    /** The type of the error answer, for the log line; null if the request was not answered with an error. */
    errorType: ErrorCode | null;
  }
}

/** Answers to requests that could not be parsed, by Node's error code. */
const unparsable: Readonly<Record<string, string>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'The request did not arrive in time.',
  HPE_HEADER_OVERFLOW: `The request's headers are larger than ${maxHeaderSize / 1024} KiB.`,
};

/** Limit for echoing the name of an unknown field, which may be as long as the body. */
const maxEchoedCharacters = 255;

/** What a caller may learn about an error. */
function toErrorAnswer(error: unknown): ErrorAnswer {
  if (error instanceof VaultError) return error.toAnswer();
  const { statusCode, validation, message } = error as Partial<FastifyError>;
  if (validation !== undefined) return { type: 'validation_error', message: describeValidation(error as FastifyError) };
  const known = statusCode === undefined ? undefined : codeByFrameworkStatus[statusCode];
  if (known !== undefined) return { type: known.code, message: known.message };
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return { type: 'validation_error', message: message ?? 'The request is malformed.' };
  }
  return { type: 'internal_error', message: 'The vault failed to answer; its log says why under this request id.' };
}

export function addErrorHandling(app: FastifyInstance): void {
  app.setErrorHandler(sendError);
  const notFound = (): NotFoundError => new NotFoundError('There is no such route: see /openapi.json.');
  app.setNotFoundHandler((request, reply) => sendError(notFound(), request, reply));
  // The not-found handler would run only after the body has been read and parsed, for any caller.
  app.addHook('onRequest', ({ is404 }, _reply, done) => done(is404 ? notFound() : undefined));
}

/**
 * Answers bytes that are not an HTTP request, for which there is no reply object. False if the connection can no longer be
 * written.
 */
export function answerUnparsable(error: Error, socket: Socket, id: string): boolean {
  if (!socket.writable) return false;
  const message = unparsable['code' in error ? String(error.code) : ''] ?? 'This is not an HTTP request.';
  const body = JSON.stringify({ error: { type: 'validation_error', message, request_id: id } });
  const headers = ['HTTP/1.1 400 Bad Request', ...Object.entries(commonHeaders(id)).map(([name, value]) => `${name}: ${value}`)];
  headers.push(
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  );
  socket.end(`${headers.join('\r\n')}\r\n\r\n${body}`);
  return true;
}

/** The headers of every answer. */
export function commonHeaders(requestId: string): Record<string, string> {
  return { 'Cache-Control': 'no-store', 'X-Request-Id': requestId, 'X-Content-Type-Options': 'nosniff' };
}

/** Also called for errors that occur before any hook has run, such as a malformed URL. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const answer = toErrorAnswer(error);
  const status = statusByCode[answer.type];
  if (status === 500) request.log.error({ request_id: request.id, err: error }, 'request failed');
  request.errorType = answer.type;
  reply.headers(commonHeaders(request.id));
  const retryAfterSeconds = error instanceof VaultError ? error.retryAfterSeconds : null;
  if (retryAfterSeconds !== null) reply.header('Retry-After', retryAfterSeconds);
  if (status === 401) reply.header('WWW-Authenticate', 'Bearer');
  return reply.code(status).send({ error: { ...answer, request_id: request.id } });
}

/** Names the place and the problem, never the value. If a body may have several shapes, describes it by the closest one. */
function describeValidation({ validation = [], validationContext }: FastifyError): string {
  const depthOf = ({ instancePath }: FastifySchemaValidationError): number => instancePath.split('/').length;
  const found = validation.filter(({ keyword }) => keyword !== 'anyOf');
  const deepest = Math.max(...found.map(depthOf));
  const closest = found.filter((each) => depthOf(each) === deepest);
  const path = (closest[0]?.instancePath ?? '').slice(1).replaceAll('/', '.');
  const place = path === '' ? (validationContext ?? 'request') : `${validationContext}.${path}`;
  return `${place} ${[...new Set(closest.map(describeOne))].join(', or ')}.`;
}

function describeOne({ params, message }: FastifySchemaValidationError): string {
  const unknown = params.additionalProperty;
  const format = formats[String(params.format)];
  if (format !== undefined) return format.demand;
  if (unknown === undefined) return message ?? 'is malformed';
  return `has an unknown field ${JSON.stringify(String(unknown).slice(0, maxEchoedCharacters))}`;
}
