/** `/admin/snapshot` and `/admin/restore`: the covered tables' ciphertext, out and in, as streams. */

import { Readable } from 'node:stream';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import * as schemas from '../../contract/schemas.ts';
import { PayloadTooLargeError, UnsupportedMediaTypeError } from '../../errors.ts';
import type { Snapshots } from '../../snapshot/snapshots.ts';
import { actorOf } from '../auth.ts';
import { goneSignal } from '../gone.ts';

const tags = ['Snapshots'];
const maxSnapshotBytes = 1024 ** 3;
const ndjson = 'application/x-ndjson';

export function snapshotRoutes({ snapshots }: { readonly snapshots: Snapshots }): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/snapshot', {
      schema: {
        operationId: 'takeSnapshot',
        summary: 'Every covered row as it is stored, encrypted, for a restore',
        tags,
        response: { 200: schemas.SnapshotAnswer, ...schemas.errorAnswers },
      },
      handler: async (request, reply) => {
        const snapshot = await snapshots.take(actorOf(request), goneSignal(reply));
        const stream = Readable.from(snapshot.chunks());
        stream.once('close', () => void snapshot.close());
        return reply.type(ndjson).send(stream);
      },
    });
    await app.register(restoreRoute(snapshots));
  };
}

/** Encapsulated, so that no other route accepts such a body, and this one accepts nothing else. */
function restoreRoute(snapshots: Snapshots): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(ndjson, (_request, payload, done) => done(null, payload));
    app.addHook('onRequest', async (request) => {
      assertTakeable(request);
      request.arrival?.allowLarge();
    });
    app.post('/restore', {
      // Enforced while the body is spooled.
      bodyLimit: maxSnapshotBytes,
      schema: {
        operationId: 'restoreSnapshot',
        summary: 'Check the whole of a snapshot, then put it back in one transaction',
        tags,
        querystring: schemas.RestoreQuery,
        body: schemas.RestoreBody,
        response: { 200: schemas.RestoreAnswer, ...schemas.errorAnswers },
      },
      handler: async (request, reply) => {
        const { body } = request;
        const { mode = 'merge' } = request.query;
        // If the body is refused before its end, the rest is not read.
        reply.header('Connection', 'close');
        snapshots.assertMode(mode);
        const source = body as AsyncIterable<Uint8Array>;
        const gone = goneSignal(reply);
        const { restored, kept } = await snapshots.restore(actorOf(request), source, mode, maxSnapshotBytes, gone);
        reply.removeHeader('Connection');
        return { restored, kept };
      },
    });
  };
}

/** Throws UnsupportedMediaTypeError, or PayloadTooLargeError if the announced length is too large. */
function assertTakeable({ headers }: FastifyRequest): void {
  const [type = ''] = (headers['content-type'] ?? '').split(';');
  if (type.trim().toLowerCase() !== ndjson) {
    throw new UnsupportedMediaTypeError(`Send the snapshot as Content-Type: ${ndjson}.`);
  }
  if (Number(headers['content-length']) > maxSnapshotBytes) throw new PayloadTooLargeError('The snapshot is larger than 1 GiB.');
}
