/** Accepts JSON bodies in UTF-8, or none if none is needed; parsing a body never blocks other requests for long. */

import { isUtf8 } from 'node:buffer';
import type { FastifyInstance } from 'fastify';
import { UnsupportedMediaTypeError, ValidationError } from '../errors.ts';

/** Limit for arrays, objects and what they hold, twice what any valid body has. A million of either take V8 a second to parse. */
const maxValues = 20_000;
const [quote, backslash, bracket, brace, comma] = [...Buffer.from('"\\[{,')];

/**
 * As Fastify's own parser, except that invalid UTF-8 is refused, and a missing body counts as `{}`: an operator's `curl -X POST`
 * sends none.
 */
export function addJsonBodies(app: FastifyInstance): void {
  app.removeContentTypeParser('text/plain');
  app.addHook('onRequest', ({ headers }, _reply, done) => {
    if ((headers['content-encoding'] ?? 'identity') === 'identity') done();
    else done(new UnsupportedMediaTypeError('Send the body as it is, without Content-Encoding.'));
  });
  const parse = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    if (body.length === 0) done(null, {});
    else if (!isUtf8(body)) done(new ValidationError('The body is not valid UTF-8.'));
    else if (hasTooManyValues(body)) done(new ValidationError(`The body holds more than ${maxValues} values.`));
    else void parse(request, body.toString('utf8'), done);
  });
  app.addHook('preValidation', (request, _reply, done) => {
    const { method, body } = request;
    if (method === 'POST' && body === undefined) request.body = {};
    const isRefused = method === 'DELETE' && body !== undefined && !isEmptyObject(body);
    done(isRefused ? new ValidationError('DELETE takes no body: its fields belong in the query.') : undefined);
  });
}

/** A value follows each opening bracket or brace, and each comma. */
function hasTooManyValues(body: Buffer): boolean {
  if (body.length <= maxValues) return false;
  let values = 0;
  let isInText = false;
  for (let at = 0; at < body.length && values <= maxValues; at += 1) {
    const byte = body[at];
    if (byte === quote) isInText = !isInText;
    else if (isInText && byte === backslash) at += 1;
    else if (!isInText && (byte === comma || byte === bracket || byte === brace)) values += 1;
  }
  return values > maxValues;
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length === 0;
}
