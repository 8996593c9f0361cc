/** The page under `/docs` renders openapi.yaml from the vault's own files: it loads nothing from elsewhere and runs no script but its own. */

import { fastifySwaggerUi } from '@fastify/swagger-ui';
import type { FastifyPluginAsync } from 'fastify';

const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** To be registered encapsulated, so that the page's headers are on no other answer. */
export const docsPage: FastifyPluginAsync = async (app) => {
  app.addHook('onSend', async (_request, reply) => {
    reply.headers({
      'Cache-Control': 'no-store',
      'Content-Security-Policy': contentSecurityPolicy,
      'Referrer-Policy': 'no-referrer',
    });
  });
  await app.register(fastifySwaggerUi, {
    routePrefix: '/docs',
    theme: { title: 'Provara Vault' },
    // A token that is typed into the page is gone once it is left, and no description is sent to a validator elsewhere.
    uiConfig: { persistAuthorization: false, validatorUrl: null, docExpansion: 'list', deepLinking: true },
  });
};
