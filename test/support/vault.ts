/** A vault on a temporary database, listening on its own port inside the test's process. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { Agent, fetch, type Headers } from 'undici';
import { onTestFinished } from 'vitest';
import type { Actor } from '../../src/audit/event.ts';
import { readServerConfig, type ServerConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { type AppOptions, addVault, createHttpServer } from '../../src/http/app.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { VaultMetrics } from '../../src/metrics/vault-metrics.ts';
import { buildServices, type Services } from '../../src/services.ts';
import type { Environment } from '../../src/settings.ts';
import { Database } from '../../src/store/database.ts';
import { migrate } from '../../src/store/migrations.ts';
import { GatewayDatabase } from './gateway.ts';
import { expectDescribed } from './openapi.ts';
import { startSqld } from './sqld.ts';

/** Sample keys: obviously no one's. */
export const keyA = 'a1'.repeat(32);
export const keyB = 'b2'.repeat(32);
export const keyC = 'c3'.repeat(32);
export const keyIdA = parseMasterKey(keyA).id;
export const keyIdB = parseMasterKey(keyB).id;
export const keyIdC = parseMasterKey(keyC).id;

export const gatewayToken = 'sample-gateway-token';
export const adminToken = 'sample-admin-token';

/** The actor for direct calls of the services. */
export const tester: Actor = { name: 'tester', role: 'gateway', requestId: null };

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests reach into answers of every shape
  readonly body: any;
}

export interface TestVault {
  readonly origin: string;
  readonly app: FastifyInstance;
  /** Every registered route, except the HEAD twin of each GET and the files of the page under /docs. */
  readonly routes: readonly { readonly method: string; readonly url: string }[];
  readonly services: Services;
  readonly gateway: (method: string, path: string, body?: unknown) => Promise<Answer>;
  readonly admin: (method: string, path: string, body?: unknown) => Promise<Answer>;
  readonly close: () => Promise<void>;
}

/** The engine of this test run: a file, or a real libSQL server. The same suite runs against both. */
export const engine = process.env.VAULT_TEST_ENGINE === 'server' ? 'server' : 'file';

/** An empty database that is removed after the test, with a second program's connection to it. */
export async function temporaryDatabase({ withTable = true } = {}): Promise<{ url: string; gateway: GatewayDatabase }> {
  const url = engine === 'server' ? (await startSqld()).url : `file:${join(temporaryFolder(), 'vault.db')}`;
  const gateway = new GatewayDatabase(url);
  onTestFinished(() => gateway.close());
  if (withTable) await gateway.createTable();
  return { url, gateway };
}

/** A database with the vault's own tables, open for the test. */
export async function migratedDatabase(): Promise<{ database: Database; gateway: GatewayDatabase }> {
  const { url, gateway } = await temporaryDatabase();
  const database = new Database({ url });
  onTestFinished(() => database.close());
  await migrate(database);
  return { database, gateway };
}

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'provara-vault-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function environmentFor(url: string, settings: Environment = {}): Environment {
  return {
    DATABASE_URL: url,
    PROVARA_MASTER_KEY: keyA,
    VAULT_GATEWAY_TOKENS: `gateway:${gatewayToken}`,
    VAULT_ADMIN_TOKENS: `operator:${adminToken}`,
    HOST: '127.0.0.1',
    PORT: '0',
    // Standard output belongs to the test runner.
    VAULT_AUDIT_LOG: '/dev/null',
    ...settings,
  };
}

export async function startVault(
  url: string,
  settings: Environment = {},
  options: Pick<AppOptions, 'receiveLimits' | 'drainMs'> = {},
): Promise<TestVault> {
  const config: ServerConfig = readServerConfig(environmentFor(url, settings));
  const logger = createSilentLogger();
  const metrics = new VaultMetrics(config.keyring);
  const services = buildServices(config, logger, { observer: metrics });
  await services.prepare();
  const routes: { method: string; url: string }[] = [];
  const app = createHttpServer(logger);
  app.addHook('onRoute', ({ method, url: path }) => {
    if (path.startsWith('/docs')) return;
    for (const each of [method].flat()) if (each !== 'HEAD') routes.push({ method: each, url: path });
  });
  await addVault(app, {
    ...services,
    metrics,
    rotationDueDays: config.rotationDueDays,
    tokens: config.tokens,
    limits: config.limits,
    encryptedTables: config.coverage.encryptedTables,
    ...options,
  });
  const origin = await app.listen({ host: config.host, port: config.port });
  let isOpen = true;
  const close = async (): Promise<void> => {
    if (!isOpen) return;
    isOpen = false;
    // Closing would otherwise give idle connections a second for one more request.
    app.server.closeIdleConnections();
    await app.close();
    await services.close();
  };
  onTestFinished(close);
  return { origin, app, routes, services, gateway: caller(origin, gatewayToken), admin: caller(origin, adminToken), close };
}

/** Keeps no connections alive, so that stopping a service need not wait for them. */
const dispatcher = new Agent({ pipelining: 0 });

/** Calls with this token, or without one if it is null. */
export function caller(origin: string, token: string | null): TestVault['gateway'] {
  return async (method, path, body) => {
    const response = await fetch(origin + path, {
      method,
      dispatcher,
      headers: {
        ...(token !== null && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    if (/^(application\/x-ndjson|text\/plain)/.test(response.headers.get('content-type') ?? '')) {
      return { status: response.status, headers: response.headers, body: text };
    }
    expectDescribed(method, path, response.status, text === '' ? null : JSON.parse(text));
    return { status: response.status, headers: response.headers, body: text === '' ? null : JSON.parse(text) };
  };
}
