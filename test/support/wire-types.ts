/**
 * Generates the client's types from the same schemas that the server validates and answers with: plain TypeScript, no library.
 */

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { TSchema } from 'typebox';
import * as schemas from '../../src/contract/schemas.ts';

interface JsonSchema {
  readonly type?: string;
  readonly description?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly patternProperties?: Readonly<Record<string, JsonSchema>>;
}

const plain = (schema: TSchema): JsonSchema => JSON.parse(JSON.stringify(schema)) as JsonSchema;

/** Throws if the schema's shape has changed, in which case the table of names below must change too. */
function part(schema: TSchema, ...path: readonly (string | number)[]): JsonSchema {
  let found: unknown = plain(schema);
  for (const step of path) found = (found as Record<string | number, unknown> | undefined)?.[step];
  if (found === undefined) throw new Error(`The schema has no ${path.join('.')}.`);
  return found as JsonSchema;
}

const named: Readonly<Record<string, JsonSchema>> = {
  ApiKey: part(schemas.GetAnswer, 'properties', 'key'),
  StoreKeyBody: plain(schemas.StoreBody),
  StoreKeyAnswer: plain(schemas.StoreAnswer),
  GetKeyAnswer: plain(schemas.GetAnswer),
  TenantQuery: plain(schemas.TenantQuery),
  ListKeysQuery: plain(schemas.ListQuery),
  ListKeysAnswer: plain(schemas.ListAnswer),
  DecryptedKey: part(schemas.DecryptKeyAnswer, 'properties', 'key'),
  DecryptKeyBody: plain(schemas.DecryptKeyBody),
  DecryptKeyAnswer: plain(schemas.DecryptKeyAnswer),
  ErrorType: part(schemas.ErrorBody, 'properties', 'error', 'properties', 'type'),
  ErrorItem: part(schemas.DecryptAllAnswer, 'properties', 'keys', 'items', 'properties', 'error'),
  DecryptedEntry: part(schemas.DecryptAllAnswer, 'properties', 'keys', 'items'),
  DecryptAllBody: plain(schemas.DecryptAllBody),
  DecryptAllAnswer: plain(schemas.DecryptAllAnswer),
  TenantCount: part(schemas.TenantsAnswer, 'properties', 'tenants', 'items'),
  TenantsQuery: plain(schemas.TenantsQuery),
  TenantsAnswer: plain(schemas.TenantsAnswer),
  StatusAnswer: plain(schemas.StatusAnswer),
  EncryptItem: part(schemas.EncryptBody, 'anyOf', 0),
  CiphertextItem: plain(schemas.CiphertextItem),
  EncryptResult: part(schemas.EncryptAnswer, 'anyOf', 0),
  DecryptResult: part(schemas.DecryptAnswer, 'anyOf', 0),
  EncryptBatchAnswer: part(schemas.EncryptAnswer, 'anyOf', 1),
  DecryptBatchAnswer: part(schemas.DecryptAnswer, 'anyOf', 1),
  ErrorBody: plain(schemas.ErrorBody),
};
const nameByShape = new Map(Object.entries(named).map(([name, schema]) => [JSON.stringify(schema), name]));

/** The formatted text of src/client/wire.ts. */
export function wireTypes(): string {
  const head =
    '/** The shapes of requests and answers, written from the schemas of the server by test/client/wire.test.ts: run it with -u. */';
  const types = Object.entries(named).map(([name, schema]) => `${note(schema)}export type ${name} = ${shape(schema)};`);
  const biome = fileURLToPath(new URL('../../node_modules/.bin/biome', import.meta.url));
  const args = ['format', '--stdin-file-path=src/client/wire.ts'];
  return execFileSync(biome, args, { input: `${head}\n\n${types.join('\n\n')}\n`, encoding: 'utf8' });
}

function reference(schema: JsonSchema): string {
  return nameByShape.get(JSON.stringify(schema)) ?? shape(schema);
}

function shape(schema: JsonSchema): string {
  if (schema.anyOf !== undefined) return schema.anyOf.map(reference).join(' | ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.type === 'array' && schema.items !== undefined) return `readonly (${reference(schema.items)})[]`;
  if (schema.type === 'object') return objectShape(schema);
  return (
    { string: 'string', integer: 'number', number: 'number', boolean: 'boolean', null: 'null' }[schema.type ?? ''] ?? 'unknown'
  );
}

function objectShape({ properties, patternProperties, required = [] }: JsonSchema): string {
  if (properties === undefined) {
    const [values = {}] = Object.values(patternProperties ?? {});
    return `Readonly<Record<string, ${reference(values)}>>`;
  }
  const fields = Object.entries(properties).map(([name, schema]) =>
    required.includes(name)
      ? `${note(schema)}readonly ${name}: ${reference(schema)};`
      : `${note(schema)}readonly ${name}?: ${reference(schema)} | undefined;`,
  );
  return `{\n${fields.join('\n')}\n}`;
}

function note({ description }: JsonSchema): string {
  return description === undefined ? '' : `/** ${description} */\n`;
}
