/**
 * The page under `/docs` renders openapi.yaml from the vault's own files: it loads nothing from elsewhere and runs only its own
 * scripts.
 */

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

/** Register encapsulated, so that no other answer gets the page's headers. */
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
    // A token typed into the page is forgotten when the page is left, and the description is not sent to an external validator.
    uiConfig: { persistAuthorization: false, validatorUrl: null, docExpansion: 'list', deepLinking: true },
  });
};
