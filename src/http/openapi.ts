/** The parts of openapi.yaml that do not come from the routes themselves. */

import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger';

export const openApiInfo: FastifyDynamicSwaggerOptions = {
  refResolver: { buildLocalReference: (json) => String(json.$id) },
  openapi: {
    openapi: '3.1.0',
    info: {
      title: 'Provara Vault',
      version: '0.1.0',
      description: 'Owns a gateway’s encrypted provider keys, and rotates the master key online.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: 'http://127.0.0.1:4100', description: 'A vault started with npm start' }],
    tags: [
      { name: 'Provider keys', description: 'For gateway tokens; writer tokens may store, list, get and delete.' },
      { name: 'Text that the caller keeps', description: 'For gateway tokens; nothing is stored.' },
      { name: 'Rotation', description: 'For admin tokens.' },
      { name: 'Master keys', description: 'For admin tokens.' },
      { name: 'Snapshots', description: 'For admin tokens; ciphertext only.' },
      { name: 'Audit', description: 'For admin tokens.' },
      { name: 'Metrics', description: 'For admin and metrics tokens.' },
      { name: 'Machines', description: 'Without a token.' },
    ],
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'A token of the role that the route is for.' },
      },
    },
    security: [{ bearer: [] }],
  },
};
