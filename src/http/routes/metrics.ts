/** `/metrics`: for Prometheus, with an admin or metrics token. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import * as schemas from '../../contract/schemas.ts';
import type { StateMetrics } from '../../metrics/state-metrics.ts';
import type { VaultMetrics } from '../../metrics/vault-metrics.ts';

export function metricsRoutes(metrics: VaultMetrics, state: StateMetrics): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/metrics', {
      schema: {
        operationId: 'getMetrics',
        summary: 'Metrics in the text format of Prometheus',
        tags: ['Metrics'],
        response: { 200: schemas.MetricsAnswer, ...schemas.errorAnswers },
      },
      handler: async (_request, reply) => reply.type(metrics.registry.contentType).send(await state.scrape()),
    });
  };
}
