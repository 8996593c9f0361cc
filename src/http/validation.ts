/**
 * Validates strictly: in a body nothing is coerced or dropped, in a query text becomes a number if the schema has one. Answers
 * hold what their schema allows.
 */

import { SerializerSelector } from '@fastify/fast-json-stringify-compiler';
import { Ajv } from 'ajv';
import type { FastifyInstance, FastifyServerOptions } from 'fastify';
import { formats } from '../contract/formats.ts';

const forBodies = createAjv(false);
const forText = createAjv(true);
const compiled = new Map<string, Serializer>();

export function addValidation(app: FastifyInstance): void {
  app.setValidatorCompiler(({ schema, httpPart }) => (httpPart === 'body' ? forBodies : forText).compile(schema));
}

function createAjv(coerceTypes: boolean): Ajv {
  // Tests prove that the schemas are valid; checking that here would take a tenth of the startup time.
  const ajv = new Ajv({
    coerceTypes,
    removeAdditional: false,
    useDefaults: true,
    strict: false,
    validateSchema: false,
    meta: false,
  });
  for (const [name, { takes }] of Object.entries(formats)) ajv.addFormat(name, takes);
  return ajv;
}

type Serializer = (value: unknown) => string;
type SerializerFactory = NonNullable<
  NonNullable<NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']>['buildSerializer']
>;

/** As Fastify's own, but equal schemas, such as those of the errors on every route, are compiled once per process. */
export const buildSerializer: SerializerFactory = (externalSchemas, options) => {
  const compile = SerializerSelector()(externalSchemas, options);
  return (route) => {
    const key = JSON.stringify(route.schema);
    const serializer = compiled.get(key) ?? compile(route);
    compiled.set(key, serializer);
    return serializer;
  };
};
