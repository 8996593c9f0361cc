/** The parts of openapi.yaml that do not come from the routes themselves. */

import type { FastifyDynamicSwaggerOptions, SwaggerTransformObject } from '@fastify/swagger';
import { statusByCode } from './errors.ts';

type OpenApiDocument = Extract<Parameters<SwaggerTransformObject>[0], { openapiObject: unknown }>['openapiObject'];

const description = `Owns a gateway’s encrypted provider keys, and rotates the master key online.

Every answer carries \`X-Request-Id\`: the caller’s own, or one that the vault has made. An error names its type:

| status | type |
|---|---|
${Object.entries(statusByCode)
  .sort(([, left], [, right]) => left - right)
  .map(([code, status]) => `| ${status} | \`${code}\` |`)
  .join('\n')}

\`rate_limited\` and \`storage_unavailable\` say in \`Retry-After\` in how many seconds another try may succeed.
`;

/** What is answered under this status, where the schema does not say so itself. */
const answers: Readonly<Record<string, object>> = {
  200: { 'x-response-description': 'Done' },
  201: { 'x-response-description': 'Done: the key is new' },
  202: {
    'x-response-description': 'Begun: ask at Location until it is done',
    headers: { Location: { type: 'string', description: 'The path of the rotation.' } },
  },
};

/** For openapi.yaml alone: no answer goes through here. */
const describeAnswers: FastifyDynamicSwaggerOptions['transform'] = ({ schema, url }) => {
  const described = Object.entries(schema.response ?? {}).map(([status, answer]) => [
    status,
    'description' in answer ? answer : { ...answer, ...answers[status] },
  ]);
  return { schema: { ...schema, response: Object.fromEntries(described) }, url };
};

/** A body that needs no field may be left out: see addJsonBodies. The plugin calls every body required. */
function withOptionalBodies(document: OpenApiDocument): OpenApiDocument {
  for (const { post } of Object.values(document.paths ?? {}).map((path) => path ?? {})) {
    if (post?.requestBody === undefined || '$ref' in post.requestBody) continue;
    const { schema = {} } = post.requestBody.content['application/json'] ?? {};
    if ('type' in schema && schema.type === 'object' && schema.required === undefined) post.requestBody.required = false;
  }
  return document;
}

export const openApiInfo: FastifyDynamicSwaggerOptions = {
  transform: describeAnswers,
  refResolver: { buildLocalReference: (json) => String(json.$id) },
  transformObject: (made) => ('openapiObject' in made ? withOptionalBodies(made.openapiObject) : {}),
  openapi: {
    openapi: '3.1.0',
    info: {
      title: 'Provara Vault',
      version: '0.1.0',
      description,
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
