/** Generates values that a JSON schema of openapi.yaml describes, and broken variants of them. */

import fc from 'fast-check';
import { formats } from '../../src/contract/formats.ts';

export interface JsonSchema {
  readonly type?: string;
  readonly format?: string;
  readonly pattern?: string;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
}

/** Longer texts and lists are covered by other tests. */
const maxCharacters = 40;
const maxItems = 4;

/** `known` are texts that mean something to the vault: they are used wherever the schema allows them. */
export function valuesOf(schema: JsonSchema, known: readonly string[]): fc.Arbitrary<unknown> {
  if (schema.anyOf !== undefined) return fc.oneof(...schema.anyOf.map((each) => valuesOf(each, known)));
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  switch (schema.type) {
    case 'object':
      return objectsOf(schema, known);
    case 'array':
      return fc.array(valuesOf(schema.items ?? {}, known), { maxLength: maxItems });
    case 'string':
      return textsOf(schema, known);
    case 'integer':
      return fc.integer({ min: schema.minimum ?? -1_000, max: schema.maximum ?? 1_000 });
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    default:
      return fc.jsonValue();
  }
}

/** The value unchanged, or with a field omitted, added or of another type, or something else altogether. */
export function mutated(value: unknown): fc.Arbitrary<unknown> {
  const other = fc.jsonValue();
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fc.oneof(fc.constant(value), other);
  const fields = Object.entries(value);
  const changed = (change: (key: string, replacement: unknown) => object): fc.Arbitrary<unknown> =>
    fc
      .tuple(fc.constantFrom(...(fields.length > 0 ? fields.map(([key]) => key) : ['none'])), other)
      .map(([key, by]) => change(key, by));
  return fc.oneof(
    changed((key) => Object.fromEntries(fields.filter(([name]) => name !== key))),
    changed((key, by) => ({ ...value, [key]: by })),
    changed((key, by) => ({ ...value, [`${key}_`]: by })),
    other,
  );
}

function objectsOf({ properties = {}, required = [] }: JsonSchema, known: readonly string[]): fc.Arbitrary<object> {
  const model = Object.fromEntries(Object.entries(properties).map(([name, each]) => [name, valuesOf(each, known)]));
  return fc.record(model, { requiredKeys: [...required] });
}

function textsOf({ format, pattern, minLength = 0, maxLength = maxCharacters }: JsonSchema, known: readonly string[]) {
  const fits = (text: string): boolean =>
    text.length >= minLength &&
    text.length <= maxLength &&
    (format === undefined || formats[format]?.takes(text) === true) &&
    (pattern === undefined || new RegExp(pattern).test(text));
  const length = { minLength, maxLength: Math.min(maxLength, maxCharacters) };
  const any = pattern === undefined ? fc.string({ ...length, unit: 'binary' }) : fc.stringMatching(new RegExp(pattern), length);
  const meant = known.filter(fits);
  const fitting = any.filter(fits);
  return meant.length === 0 ? fitting : fc.oneof({ arbitrary: fc.constantFrom(...meant), weight: 2 }, fitting);
}
