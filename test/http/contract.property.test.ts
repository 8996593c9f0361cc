/** Whatever is sent to a route, by the book of openapi.yaml or against it, the answer is one that openapi.yaml describes, and never a 500. */

import fc from 'fast-check';
import { Agent, fetch } from 'undici';
import { describe, expect, it, onTestFinished } from 'vitest';
import { acceptsBody, expectDescribed, openApi } from '../support/openapi.ts';
import { type JsonSchema, mutated, valuesOf } from '../support/schema-arbitrary.ts';
import {
  adminToken,
  gatewayToken,
  keyB,
  keyIdA,
  keyIdB,
  startVault,
  type TestVault,
  temporaryDatabase,
} from '../support/vault.ts';

const runsPerRoute = 25;
const jsonType = 'application/json';
const ndjsonType = 'application/x-ndjson';

interface Call {
  readonly method: string;
  readonly path: string;
  readonly type?: string;
  readonly body?: string;
}

/** A vault with rows of two tenants, a staged key, and the texts that mean something to it. */
async function startKnownVault(): Promise<{ vault: TestVault; known: string[] }> {
  const { url } = await temporaryDatabase();
  // What a machine that is busy with other tests refuses for that is no answer to a body.
  const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_LIMIT_EVENT_LOOP_DELAY: '0' });
  const known = ['acme', 'K1', 'K2', 'openai', 'a value', '{"type":"service_account"}', keyIdA, keyIdB, 'api_keys:none'];
  for (const tenant_id of [null, 'acme']) {
    for (const name of ['K1', 'K2']) {
      const { body } = await vault.gateway('POST', '/v1/api-keys', {
        tenant_id,
        name,
        provider: 'openai',
        value: 'sample-value',
      });
      known.push(body.key.id);
    }
  }
  for (const context of [undefined, 'K1']) {
    known.push((await vault.gateway('POST', '/v1/encrypt', { plaintext: 'sample', context })).body.ciphertext);
  }
  for (const path of ['/v1/api-keys?limit=1', '/v1/tenants?limit=1'])
    known.push((await vault.gateway('GET', path)).body.next_cursor);
  const { body } = await vault.admin('POST', '/admin/rotate/execute');
  known.push(body.rotation.id);
  return { vault, known };
}

/** Sends it with the token of the route's role, and holds the answer against the description. */
function sender({ origin }: TestVault): (call: Call) => Promise<{ status: number; text: string }> {
  const dispatcher = new Agent();
  onTestFinished(() => dispatcher.close());
  return async ({ method, path, type, body }) => {
    const authorization = `Bearer ${path.startsWith('/v1/') ? gatewayToken : adminToken}`;
    const headers = { authorization, ...(type !== undefined && { 'content-type': type }) };
    const response = await fetch(origin + path, { method, dispatcher, headers, ...(body !== undefined && { body }) });
    const text = await response.text();
    expect(response.status, text).not.toBe(500);
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(response.headers.get('x-request-id')).toBeTruthy();
    if (response.headers.get('content-type')?.startsWith(jsonType)) {
      expectDescribed(method, new URL(origin + path).pathname, response.status, JSON.parse(text));
    } else expect(response.status).toBe(200);
    return { status: response.status, text };
  };
}

type Operation = (typeof openApi.paths)[string][string];

/** The path with its parameters filled in; those of the query are there or not. */
function pathsOf(template: string, { parameters = [] }: Operation, known: readonly string[]): fc.Arbitrary<string> {
  const model = Object.fromEntries(
    parameters.map(({ name, schema }) => [name, valuesOf(schema as JsonSchema, known).map(String)]),
  );
  const inPath = parameters.filter((parameter) => parameter.in === 'path').map(({ name }) => name);
  return fc.record(model, { requiredKeys: inPath }).map((values) => {
    const text = (name: string): string => encodeURIComponent(String(values[name]).toWellFormed());
    const query = Object.keys(values).filter((name) => !inPath.includes(name));
    const path = template.replaceAll(/\{(\w+)\}/g, (_match, name: string) => text(name));
    return query.length === 0 ? path : `${path}?${query.map((name) => `${name}=${text(name)}`).join('&')}`;
  });
}

/** By the book, broken in one place, or no JSON at all. */
function bodiesOf(schema: JsonSchema, known: readonly string[]): fc.Arbitrary<string> {
  const described = valuesOf(schema, known);
  const json = fc.oneof({ arbitrary: described, weight: 2 }, { arbitrary: described.chain(mutated), weight: 3 });
  return fc.oneof(
    { arbitrary: json.map((value) => JSON.stringify(value)), weight: 9 },
    fc.string({ unit: 'binary' }).map((text) => text.toWellFormed()),
  );
}

/** Undefined, which no schema allows, where it is no JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What the schema refuses is a 400 (or a 404, under a path that is none), and no other 400 is about the body's shape. */
function expectTaken(isDescribed: boolean, status: number, what: string): void {
  if (!isDescribed) expect([400, 404], what).toContain(status);
  else if (status === 400) expect(what).not.toMatch(/"message":"body[ .]/);
}

const operations = Object.entries(openApi.paths).flatMap(([template, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    route: `${method.toUpperCase()} ${template}`,
    template,
    method,
    operation,
  })),
);

describe('every route', () => {
  it('answers as openapi.yaml says, and takes a body exactly where its schema does', async () => {
    const { vault, known } = await startKnownVault();
    const send = sender(vault);
    for (const { route, template, method, operation } of operations) {
      const schema = operation.requestBody?.content[jsonType]?.schema;
      const bodies = schema === undefined ? fc.constant(undefined) : bodiesOf(schema as JsonSchema, known);
      await fc.assert(
        fc.asyncProperty(pathsOf(template, operation, known), bodies, async (path, body) => {
          const isSnapshot = operation.requestBody?.content[ndjsonType] !== undefined;
          const { status, text } = await send({
            method: method.toUpperCase(),
            path,
            ...(body !== undefined && { type: jsonType, body }),
            ...(isSnapshot && { type: ndjsonType, body: path }),
          });
          if (body !== undefined && body !== '')
            expectTaken(acceptsBody(template, method, parsed(body)), status, `${route}: ${body}: ${text}`);
        }),
        { numRuns: runsPerRoute },
      );
    }
  });

  it('refuses a snapshot that is cut or changed anywhere, as the description says', async () => {
    const { vault } = await startKnownVault();
    const send = sender(vault);
    const { body: snapshot } = await vault.admin('GET', '/admin/snapshot');
    const damaged = fc.tuple(fc.nat(snapshot.length - 2), fc.constantFrom('cut', 'x', '"', '\n', '\u0000', '9'));
    await fc.assert(
      fc.asyncProperty(damaged, async ([place, by]) => {
        const body = by === 'cut' ? snapshot.slice(0, place) : snapshot.slice(0, place) + by + snapshot.slice(place + 1);
        fc.pre(body !== snapshot);
        const { status } = await send({ method: 'POST', path: '/admin/restore', type: ndjsonType, body });
        expect(status).toBe(422);
      }),
      { numRuns: 2 * runsPerRoute },
    );
  });
});
