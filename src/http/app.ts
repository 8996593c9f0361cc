/** The HTTP side of the vault: who may call what, in which shape, and one line of log for each request. */

import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import { fastifySwagger } from '@fastify/swagger';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyRequest,
  fastify,
  LogController,
  type RouteOptions,
} from 'fastify';
import type { AuditJournal } from '../audit/journal.ts';
import { EmptyBody, ErrorBody } from '../contract/schemas.ts';
import { StateMetrics, type StateSource } from '../metrics/state-metrics.ts';
import type { VaultMetrics } from '../metrics/vault-metrics.ts';
import type { Rotator } from '../rotation/engine.ts';
import type { Snapshots } from '../snapshot/snapshots.ts';
import type { AuditStore } from '../store/audit.ts';
import type { Role, Token } from '../tokens.ts';
import type { ApiKeys } from '../vault/api-keys.ts';
import type { StatelessCipher } from '../vault/stateless.ts';
import { requireRole, requireTenant } from './auth.ts';
import { docsPage } from './docs.ts';
import { addDraining } from './draining.ts';
import { addErrorHandling, answerUnparsable, commonHeaders, sendError } from './errors.ts';
import { addJsonBodies } from './json-bodies.ts';
import { openApiInfo } from './openapi.ts';
import { createRateLimits, type Limits } from './rate-limits.ts';
import { addReceiving, type ReceiveLimits } from './receiving.ts';
import { apiKeyRoutes, keyOpeningRoutes, keyStatusRoutes } from './routes/api-keys.ts';
import { auditRoutes } from './routes/audit.ts';
import { machineRoutes } from './routes/machines.ts';
import { type MasterKeyRoutesOptions, masterKeyRoutes } from './routes/master-keys.ts';
import { metricsRoutes } from './routes/metrics.ts';
import { rotateRoutes } from './routes/rotate.ts';
import { snapshotRoutes } from './routes/snapshots.ts';
import { statelessRoutes } from './routes/stateless.ts';
import { createShedding } from './shedding.ts';
import { limitUnanswered, limitUnread } from './unread.ts';
import { addValidation, buildSerializer } from './validation.ts';

const maxBodyBytes = 8 * 1024 * 1024;
/** Longer than a client or proxy keeps a connection, so that none sends a request on one that is just being closed. */
const keepAliveTimeoutMs = 72_000;
/** Within which the headers of a request must have come, and the first byte of a new connection. */
const headersTimeoutMs = 15_000;
/** How often connections are held against these times: Node's own half a minute would triple the shortest. */
const connectionsCheckMs = 1_000;
/** In log and metrics, of a request whose caller went away before the answer was whole. */
const abandonedStatus = 499;
const serverOptions = {
  requireHostHeader: false,
  headersTimeout: headersTimeoutMs,
  keepAliveTimeout: keepAliveTimeoutMs,
  connectionsCheckingInterval: connectionsCheckMs,
  // Of a request's body: see addReceiving.
  requestTimeout: 0,
};
const givenRequestId = /^[\x21-\x7e]{1,128}$/;

export interface AppOptions extends MasterKeyRoutesOptions, StateSource {
  readonly apiKeys: ApiKeys;
  readonly stateless: StatelessCipher;
  readonly rotator: Rotator;
  readonly snapshots: Snapshots;
  readonly metrics: VaultMetrics;
  readonly journal: AuditJournal;
  readonly auditStore: AuditStore;
  readonly encryptedTables: readonly string[];
  readonly tokens: readonly Token[];
  readonly limits: AppLimits;
  readonly receiveLimits?: ReceiveLimits;
  /** How long a stop waits for connections that do not end. */
  readonly drainMs?: number;
}

interface AppLimits extends Limits {
  /** How late the event loop may be before calls are refused; 0 is no limit. */
  readonly eventLoopDelayMs: number;
}

/** A server without routes, not listening. */
export function createHttpServer(logger: FastifyBaseLogger): FastifyInstance {
  const app = fastify({
    loggerInstance: logger,
    // One of its own for each request would cost more than its line of log, which names the request anyway.
    childLoggerFactory: (parent) => parent,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestId,
    bodyLimit: maxBodyBytes,
    // It holds for the end too, which takes as long as the requests that are in flight.
    pluginTimeout: 0,
    return503OnClosing: false,
    serverFactory: (listener) => createServer(serverOptions, limitUnanswered(listener)),
    frameworkErrors: (error, request, reply) => {
      reply.raw.once('close', () => logRequest(request, reply.statusCode, reply.elapsedTime));
      sendError(error, request, reply);
    },
    clientErrorHandler: (error, socket) => {
      const id = randomUUID();
      const isAnswered = answerUnparsable(error, socket, id);
      // Of a request that ends in its midst there is a line already.
      if (!isAnswered || ('code' in error && error.code === 'HPE_INVALID_EOF_STATE')) return;
      logger.info({ request_id: id, method: null, route: null, status: 400, error: 'validation_error' }, 'request');
    },
    routerOptions: { maxParamLength: 1_024 },
    schemaController: { compilersFactory: { buildSerializer } },
  });
  limitUnread(app.server);
  // Left to itself Node answers 417, without a word. What is expected is of no matter to any route.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response));
  return app;
}

/** Adds every route of the vault, each behind the tokens that may use it. */
export async function addVault(app: FastifyInstance, options: AppOptions): Promise<void> {
  app.decorateRequest('caller', null);
  app.decorateRequest('errorType', null);
  addRequestHooks(app, options.metrics);
  app.addSchema(ErrorBody);
  addValidation(app);
  addErrorHandling(app);
  addDraining(app, options.drainMs);
  addReceiving(app, options.receiveLimits);
  addJsonBodies(app);
  await app.register(fastifySwagger, openApiInfo);
  await app.register(machineRoutes(options.readiness));
  await app.register(docsPage);
  const rateLimits = await createRateLimits(app, options.limits);
  const shed = createShedding(app, options.limits.eventLoopDelayMs);
  const allow =
    (roles: readonly Role[], routes: readonly FastifyPluginAsyncTypebox[], isShed = true) =>
    async (inner: FastifyInstance) => {
      if (isShed) inner.addHook('onRequest', shed);
      inner.addHook('onRequest', requireRole(options.tokens, roles, rateLimits));
      if (isShed) inner.addHook('onRequest', (_request, _reply, done) => done(options.readiness.unprepared ?? undefined));
      inner.addHook('onRoute', refuseUnknownQuery);
      for (const plugin of routes) await inner.register(plugin);
    };
  const opening = [keyOpeningRoutes(options.apiKeys, rateLimits), statelessRoutes(options.stateless, rateLimits)];
  await app.register(allow(['gateway', 'writer'], [withinTenants([apiKeyRoutes(options.apiKeys)])]), { prefix: '/v1' });
  await app.register(allow(['gateway'], [withinTenants(opening), keyStatusRoutes(options.apiKeys)]), { prefix: '/v1' });
  const adminRoutes = [rotateRoutes(options), masterKeyRoutes(options), snapshotRoutes(options), auditRoutes(options)];
  await app.register(allow(['admin'], adminRoutes), { prefix: '/admin' });
  options.metrics.observeProcess();
  const state = new StateMetrics(options.metrics, options);
  // A process that cannot keep up goes on saying so.
  await app.register(allow(['admin', 'metrics'], [metricsRoutes(options.metrics, state)], false));
}

/** Encapsulates routes that a token limited to tenants reaches for those tenants alone. */
function withinTenants(routes: readonly FastifyPluginAsyncTypebox[]): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.addHook('preHandler', requireTenant);
    for (const plugin of routes) await app.register(plugin);
  };
}

/** An id that the caller gave follows the call through the vault, where it is short and printable. */
function requestId({ headers }: IncomingMessage): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && givenRequestId.test(given) ? given : randomUUID();
}

function addRequestHooks(app: FastifyInstance, metrics: VaultMetrics): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.headers(commonHeaders(request.id));
    // Not onResponse, which does not come where the caller goes away first.
    reply.raw.once('close', () => {
      const { method, routeOptions } = request;
      const status = reply.raw.writableFinished ? reply.statusCode : abandonedStatus;
      metrics.requestFinished({ method, route: routeOptions.url, status, seconds: reply.elapsedTime / 1e3 });
      logRequest(request, status, reply.elapsedTime);
    });
    done();
  });
}

/** The route's pattern, not the URL: ids and tenants are the callers' business. */
function logRequest(request: FastifyRequest, status: number, elapsedMs: number): void {
  request.log.info(
    {
      request_id: request.id,
      method: request.method,
      route: request.routeOptions.url ?? null,
      status,
      error: request.errorType,
      role: request.caller?.role ?? null,
      token: request.caller?.name ?? null,
      duration_ms: Math.round(elapsedMs * 10) / 10,
    },
    'request',
  );
}

/** A route that says nothing of its query has none: a field that belongs in the body must not be dropped in silence. */
function refuseUnknownQuery(route: RouteOptions): void {
  route.schema = { querystring: EmptyBody, ...route.schema };
}
