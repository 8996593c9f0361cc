/** Checks every answer that a test gets against openapi.yaml. */

import { readFileSync } from 'node:fs';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { expect } from 'vitest';
import { parse } from 'yaml';
import { formats } from '../../src/contract/formats.ts';

interface OpenApi {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

export interface Operation {
  /** The roles of the tokens that the route is for, each under `bearer`; empty where it needs none. */
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[];
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema: Record<string, unknown> }[];
  readonly requestBody?: {
    readonly required: boolean;
    readonly content: Readonly<Record<string, { readonly schema: Record<string, unknown> }>>;
  };
  readonly responses: Readonly<Record<string, { readonly content?: Readonly<Record<string, { readonly schema: object }>> }>>;
}

const openApiPath = new URL('../../openapi.yaml', import.meta.url);
export const openApi = parse(readFileSync(openApiPath, 'utf8')) as OpenApi;

const ajv = new Ajv2020({ strict: false });
for (const [name, { takes }] of Object.entries(formats)) ajv.addFormat(name, takes);
ajv.addFormat('date-time', (text: string) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(text));
ajv.addSchema(openApi, 'openapi');
const compiled = new Map<string, ValidateFunction>();

function validatorOf(...keys: string[]): ValidateFunction {
  const pointer = keys.map((key) => encodeURIComponent(key.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/');
  const validate = compiled.get(pointer) ?? ajv.compile({ $ref: `openapi#/${pointer}` });
  compiled.set(pointer, validate);
  return validate;
}

/** Fails the test if openapi.yaml does not describe such an answer of this route. */
export function expectDescribed(method: string, path: string, status: number, body: unknown): void {
  const template = templateOf(path);
  if (template === undefined) {
    expect(status, `${method} ${path} is not in openapi.yaml`).toBe(404);
    return;
  }
  const operation = openApi.paths[template]?.[method.toLowerCase()];
  if (operation === undefined) {
    expect(status, `${method} ${template} is not in openapi.yaml`).toBe(404);
    return;
  }
  const answer = [String(status), `${String(status)[0]}XX`].find((key) => operation.responses[key] !== undefined);
  if (answer === undefined) throw new Error(`openapi.yaml does not describe ${status} of ${method} ${template}`);
  const validate = validatorOf(
    'paths',
    template,
    method.toLowerCase(),
    'responses',
    answer,
    'content',
    'application/json',
    'schema',
  );
  expect(validate(body) ? [] : validate.errors, `${method} ${template} ${status}`).toEqual([]);
}

function templateOf(path: string): string | undefined {
  const [pathname = ''] = path.split('?');
  const exact = Object.keys(openApi.paths).find((template) => template === pathname);
  return exact ?? Object.keys(openApi.paths).find((template) => toPattern(template).test(pathname));
}

function toPattern(template: string): RegExp {
  return new RegExp(`^${template.replaceAll(/\{\w+\}/g, '[^/]+')}$`);
}

/** Whether openapi.yaml allows this JSON body there. */
export function acceptsBody(template: string, method: string, body: unknown): boolean {
  return validatorOf('paths', template, method, 'requestBody', 'content', 'application/json', 'schema')(body);
}
