/** Refuses what is not meant: in a body nothing is coerced and nothing dropped, in a query text becomes a number where one is due. */

import { Ajv } from 'ajv';
import type { FastifyInstance } from 'fastify';
import { isLabel, labelFormat, unicodeFormat } from '../contract/schemas.ts';

export function addValidation(app: FastifyInstance): void {
  const forBodies = createAjv(false);
  const forText = createAjv(true);
  app.setValidatorCompiler(({ schema, httpPart }) => (httpPart === 'body' ? forBodies : forText).compile(schema));
}

function createAjv(coerceTypes: boolean): Ajv {
  const ajv = new Ajv({ coerceTypes, removeAdditional: false, useDefaults: true, allErrors: false, strict: false });
  ajv.addFormat(labelFormat, isLabel);
  ajv.addFormat(unicodeFormat, (text: string) => text.isWellFormed());
  return ajv;
}
