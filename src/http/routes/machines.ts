/** `/health`, `/ready` and `/openapi.json`: for platforms and developers, without a token. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import * as schemas from '../../contract/schemas.ts';
import type { ReadinessCheck } from '../../keys/readiness.ts';

const tags = ['Machines'];

export function machineRoutes(readiness: ReadinessCheck): FastifyPluginAsyncTypebox {
  return async (app) => {
    let text: string | undefined;
    const description = (): string => {
      text ??= JSON.stringify(app.swagger());
      return text;
    };

    app.get('/health', {
      schema: {
        operationId: 'getHealth',
        summary: 'Whether the process is alive',
        tags,
        security: [],
        response: { 200: schemas.HealthAnswer, ...schemas.errorAnswers },
      },
      handler: async () => ({ status: 'ok' as const }),
    });

    app.get('/ready', {
      schema: {
        operationId: 'getReadiness',
        summary: 'The database answers and the keyring holds the keys that it needs',
        tags,
        security: [],
        response: { 200: schemas.ReadyAnswer, ...schemas.errorAnswers },
      },
      handler: async () => ({ status: 'ready' as const, warnings: await readiness.assertReady() }),
    });

    app.get('/openapi.json', {
      schema: {
        operationId: 'getOpenApi',
        summary: 'This description',
        tags,
        security: [],
        response: { 200: schemas.OpenApiAnswer, ...schemas.errorAnswers },
      },
      handler: async (_request, reply) => reply.type('application/json; charset=utf-8').send(description()),
    });
  };
}
