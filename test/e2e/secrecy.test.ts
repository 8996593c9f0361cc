/**
 * Secrets go in by every way that there is, and come out by none but the three answers that are there for it: whatever else
 * the vault writes, answers, keeps or starts holds none of them, in no spelling.
 */

import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GatewayDatabase } from '../support/gateway.ts';
import { openApi } from '../support/openapi.ts';
import { runCli, type ServerProcess, startServer } from '../support/process.ts';
import { temporaryFolder } from '../support/vault.ts';

/** Drawn anew each time, with characters that each encoding spells differently. */
const draw = (name: string): string => `canary-${name}/?&+~=${randomBytes(15).toString('base64')}`;
const drawKey = (): string => randomBytes(32).toString('hex');
const drawToken = (): string => randomBytes(24).toString('base64url');

const values = {
  stored: draw('stored'),
  replaced: draw('replaced'),
  refused: draw('refused'),
  document: JSON.stringify({ type: 'service_account', private_key: draw('document') }),
  plaintext: draw('plaintext'),
  context: draw('context'),
};
const masterKeys = { current: drawKey(), next: drawKey(), other: drawKey() };
const tokens = { gateway: drawToken(), admin: drawToken(), writer: drawToken(), metrics: drawToken(), unknown: drawToken() };

/** The answers that are there to hold a plaintext; nothing else is. */
const openingRoutes = ['POST /v1/api-keys/decrypt', 'POST /v1/api-keys/decrypt-all', 'POST /v1/decrypt'];

/** How each secret could be spelt, as Latin-1 text: searching this in bytes finds them wherever they begin. */
const spellings: readonly { readonly secret: string; readonly text: string }[] = [
  ...Object.entries({ ...values, ...masterKeys, ...tokens }).flatMap(([secret, text]) =>
    spell(Buffer.from(text)).map((spelling) => ({ secret, text: spelling })),
  ),
  ...Object.entries(masterKeys).flatMap(([secret, hex]) =>
    spell(Buffer.from(hex, 'hex')).map((text) => ({ secret: `${secret} (bytes)`, text })),
  ),
];

function spell(bytes: Buffer): string[] {
  const text = bytes.toString('utf8');
  const percent = [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
  const encoded = [bytes.toString('hex'), percent].flatMap((each) => [each, each.toUpperCase()]);
  const isText = Buffer.from(text, 'utf8').equals(bytes);
  const asText = isText ? [encodeURIComponent(text), JSON.stringify(text).slice(1, -1), encodeURI(text)] : [];
  return [
    bytes.toString('latin1'),
    ...encoded,
    ...asText.map((each) => Buffer.from(each).toString('latin1')),
    ...base64Of(bytes),
  ];
}

/** At each of the three places where it may begin within a group, less the characters that its neighbours have a part in. */
function base64Of(bytes: Buffer): string[] {
  return [0, 1, 2].flatMap((offset) => {
    const padded = Buffer.concat([Buffer.alloc(offset), bytes]);
    const first = Math.ceil((offset * 8) / 6);
    const last = Math.floor((padded.length * 8) / 6);
    return [padded.toString('base64'), padded.toString('base64url')].map((text) => text.slice(first, last));
  });
}

/** The secrets that these bytes hold. */
function secretsIn(bytes: Buffer | string): string[] {
  const haystack = Buffer.from(bytes as Buffer).toString('latin1');
  return [...new Set(spellings.filter(({ text }) => haystack.includes(text)).map(({ secret }) => secret))];
}

interface Call {
  readonly route: string;
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

const json = { 'content-type': 'application/json' };
const ndjson = { 'content-type': 'application/x-ndjson' };

/** One call of each POST that does what the route is for; the others need no body. */
const goodBodies: Readonly<Record<string, unknown>> = {
  'POST /v1/api-keys': { name: 'K', provider: 'openai', value: values.replaced },
  'POST /v1/api-keys/decrypt': { name: 'K' },
  'POST /v1/api-keys/decrypt-all': {},
  'POST /v1/encrypt': { plaintext: values.plaintext, context: values.context },
  'POST /v1/decrypt': { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA', context: values.context },
  'POST /v1/rewrap': { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA', context: values.context },
};

const allRoutes = Object.entries(openApi.paths).flatMap(([path, operations]) =>
  Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
);

/** What is sent to a route: what it is for, and secrets in every wrong place. */
function callsOf(route: string): Call[] {
  const [method = '', template = ''] = route.split(' ');
  const path = template.replaceAll(/\{\w+\}/g, encodeURIComponent(values.refused));
  const calls: Call[] = [
    { route, path, ...(method === 'POST' && { body: goodBodies[route] ?? {}, headers: json }) },
    { route, path: `${path}?limit=${encodeURIComponent(values.refused)}` },
  ];
  if (method !== 'POST') return calls;
  const secret = values.refused;
  const wrong = [`{"value": "${secret}"`, secret, { name: [secret], value: secret }, { unknown: secret }, { items: [secret] }];
  return [
    ...calls,
    ...wrong.map((body) => ({ route, path, body, headers: json })),
    { route, path, body: secret, headers: ndjson },
    { route, path, body: secret, headers: { 'content-type': 'text/plain' } },
  ];
}

async function send({ origin }: ServerProcess, { route, path, body, headers = {} }: Call, token: string | null) {
  const response = await fetch(origin + path, {
    method: route.split(' ')[0] ?? '',
    headers: { ...headers, ...(token !== null && { authorization: `Bearer ${token}` }) },
    ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const answered = `${JSON.stringify([...response.headers])}\n${text}`;
  const isOpening = response.status === 200 && openingRoutes.includes(route);
  return { status: response.status, text, leaked: isOpening ? [] : secretsIn(answered).map((secret) => `${secret} in ${route}`) };
}

/** Every answer that holds a secret and is not there for it, and the statuses that there were. */
async function callEverything(server: ServerProcess): Promise<{ leaked: string[]; statuses: Set<number> }> {
  const leaked: string[] = [];
  const statuses = new Set<number>();
  for (const route of allRoutes) {
    const own = route.includes(' /v1/') ? tokens.gateway : tokens.admin;
    for (const call of callsOf(route)) {
      for (const token of [own, null, tokens.unknown, tokens.writer]) {
        const answer = await send(server, call, token);
        leaked.push(...answer.leaked);
        statuses.add(answer.status);
      }
    }
  }
  return { leaked, statuses };
}

/** The command lines and environments of the processes that this one has started, and theirs. */
function descendants(pid: number): string[] {
  const children = readdirSync(`/proc/${pid}/task`)
    .flatMap((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'latin1').trim().split(' '))
    .filter((child) => child !== '');
  return children.flatMap((child) => [
    ...['environ', 'cmdline'].map((file) => readFileSync(`/proc/${child}/${file}`, 'latin1')),
    ...descendants(Number(child)),
  ]);
}

/** Every file of a folder that holds a secret, and which. */
function leaksInFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .flatMap(({ parentPath, name }) => secretsIn(readFileSync(join(parentPath, name))).map((secret) => `${secret} in ${name}`));
}

/** Breaks the process as an error of the vault's own would, with secrets in all that an error may carry beside its message. */
const breaker = `
import { existsSync } from 'node:fs';
const [secret, folder] = [process.env.SAMPLE_SECRET, process.env.SAMPLE_FOLDER];
const broken = () => Object.assign(new Error('sample failure', { cause: new Error(secret) }), { value: secret, args: [secret] });
setInterval(() => {
  if (existsSync(folder + '/throw')) throw broken();
  if (existsSync(folder + '/reject')) void Promise.reject(broken());
}, 20).unref();
`;

async function start(settings: Record<string, string> = {}) {
  const folder = temporaryFolder();
  const environment = {
    NODE_ENV: 'production',
    LOG_LEVEL: 'trace',
    HOST: '127.0.0.1',
    PORT: '0',
    DATABASE_URL: `file:${join(folder, 'vault.db')}`,
    PROVARA_MASTER_KEY: masterKeys.current,
    PROVARA_MASTER_KEY_NEW: masterKeys.next,
    VAULT_GATEWAY_TOKENS: `gateway:${tokens.gateway}`,
    VAULT_ADMIN_TOKENS: `operator:${tokens.admin}`,
    VAULT_WRITER_TOKENS: `dashboard:${tokens.writer}`,
    VAULT_METRICS_TOKENS: `scraper:${tokens.metrics}`,
    VAULT_SNAPSHOT_DIR: folder,
    VAULT_AUDIT_LOG: join(folder, 'audit.log'),
    VAULT_LIMIT_AUTH_FAILURES: '0',
    ...settings,
  };
  return { folder, environment, server: await startServer(environment) };
}

describe('a secret', () => {
  it('is found in every spelling that is searched for', () => {
    for (const [name, text] of Object.entries({ ...values, ...masterKeys, ...tokens })) {
      for (const before of ['', 'x', 'xy', 'xyz']) {
        const bytes = Buffer.from(`${before}${text}-behind it`);
        const spelt = [
          bytes,
          bytes.toString('hex'),
          bytes.toString('base64'),
          bytes.toString('base64url'),
          encodeURIComponent(String(bytes)),
        ];
        for (const each of spelt) expect(secretsIn(each)).toContain(name);
      }
    }
    expect(secretsIn('nothing of it')).toEqual([]);
  });

  it('comes out of no route but those that open keys, and stays in no log, audit, file or child process', async () => {
    const { folder, environment, server } = await start();
    const call = (route: string, body?: unknown) =>
      send(
        server,
        { route, path: route.split(' ')[1] ?? '', body, headers: json },
        route.includes(' /v1/') ? tokens.gateway : tokens.admin,
      );
    const leaked: string[] = [];
    for (const [name, value] of Object.entries({ K: values.stored, document: values.document })) {
      leaked.push(...(await call('POST /v1/api-keys', { name, provider: 'openai', value })).leaked);
    }
    const { ciphertext } = JSON.parse((await call('POST /v1/encrypt', { plaintext: values.plaintext })).text);
    const opened = [
      await call('POST /v1/api-keys/decrypt', { name: 'K' }),
      await call('POST /v1/api-keys/decrypt-all', {}),
      await call('POST /v1/decrypt', { ciphertext }),
    ];
    expect(opened.map(({ text }) => secretsIn(text))).toEqual([['stored'], ['stored', 'document'], ['plaintext']]);
    const everything = await callEverything(server);
    expect([...everything.statuses].sort()).toEqual([200, 400, 401, 403, 404, 415, 422]);
    leaked.push(...everything.leaked);
    const database = new GatewayDatabase(environment.DATABASE_URL);
    await database.client.execute("CREATE TRIGGER refuse BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'refused'); END");
    const failed = await call('POST /v1/api-keys', { name: 'K', provider: 'openai', value: values.stored });
    await database.client.execute('DROP TRIGGER refuse');
    database.close();
    expect(failed.status).toBe(500);
    leaked.push(...failed.leaked);
    expect(leaked).toEqual([]);

    const children = descendants(server.child.pid ?? 0);
    expect(children.flatMap(secretsIn)).toEqual([]);
    expect(secretsIn(readFileSync(`/proc/${server.child.pid}/cmdline`))).toEqual([]);
    expect(existsSync(join(folder, 'vault.db-wal'))).toBe(true);
    expect(leaksInFiles(folder)).toEqual([]);

    const commands = [
      ['status'],
      ['verify', '--json'],
      ['audit', 'verify'],
      ['snapshot', '--out', join(folder, 'snapshot.ndjson')],
      ['restore', '--mode', 'replace', join(folder, 'snapshot.ndjson')],
      ['rotate', '--force'],
      ['rotate', '--nonsense'],
      ['restore', join(folder, 'vault.db')],
    ];
    const rotated = { ...environment, PROVARA_MASTER_KEY_OLD: masterKeys.current };
    const strange = { ...environment, PROVARA_MASTER_KEY: masterKeys.other, PROVARA_MASTER_KEY_OLD: masterKeys.other };
    const results = [];
    for (const args of commands) results.push(await runCli(args, rotated));
    // None of these writes anything.
    results.push(...(await Promise.all(commands.map((args) => runCli(args, strange)))));
    for (const { stdout, stderr } of results) expect(secretsIn(stdout + stderr)).toEqual([]);
    const codes = new Set(results.map(({ code }) => code));
    expect(codes).toContain(0);
    expect(codes.size).toBeGreaterThan(2);
    await server.stop('SIGKILL');
    expect(server.output()).toContain('"level":30');
    expect(secretsIn(server.output())).toEqual([]);
    expect(leaksInFiles(folder)).toEqual([]);
  });

  it.each(['throw', 'reject'])('is in nothing that a process leaves which ends by an unexpected %s', async (way) => {
    const broken = temporaryFolder();
    writeFileSync(join(broken, 'breaker.mjs'), breaker);
    const { folder, server } = await start({
      NODE_OPTIONS: `--import ${join(broken, 'breaker.mjs')}`,
      SAMPLE_SECRET: values.stored,
      SAMPLE_FOLDER: broken,
      VAULT_AUDIT_LOG: 'stdout',
    });
    const ended = new Promise((resolve) => server.child.once('exit', resolve));
    const storing = { route: 'POST /v1/api-keys', path: '/v1/api-keys', headers: json };
    await send(server, { ...storing, body: { name: 'K', provider: 'openai', value: values.stored } }, tokens.gateway);
    const decrypting = { route: 'POST /v1/api-keys/decrypt', path: '/v1/api-keys/decrypt', headers: json, body: { name: 'K' } };
    expect((await send(server, decrypting, tokens.gateway)).status).toBe(200);
    writeFileSync(join(broken, way), '');
    expect(await ended).toBe(1);
    expect(server.output()).toContain('sample failure');
    // The audit, which goes to standard output here, is among it.
    expect(server.output()).toContain('"act":"key.decrypt"');
    expect(secretsIn(server.output())).toEqual([]);
    expect(leaksInFiles(folder)).toEqual([]);
  });
});
