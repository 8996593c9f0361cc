/** The vault over HTTP: who may call what, in which shape, with one log line for each request. */

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
/** Longer than clients and proxies keep connections, so that none sends a request on a connection that is being closed. */
const keepAliveTimeoutMs = 72_000;
/** Time limit for the headers of a request, and for the first byte of a new connection. */
const headersTimeoutMs = 15_000;
/** How often connections are checked against these limits: Node's own 30 seconds would triple the shortest one. */
const connectionsCheckMs = 1_000;
/** The status in log and metrics if the caller went away before the whole answer was sent. */
const abandonedStatus = 499;
const serverOptions = {
  requireHostHeader: false,
  headersTimeout: headersTimeoutMs,
  keepAliveTimeout: keepAliveTimeoutMs,
  connectionsCheckingInterval: connectionsCheckMs,
  // The limit for a request's body is set in addReceiving.
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
  /** How long a stop waits for connections to end. */
  readonly drainMs?: number;
}

interface AppLimits extends Limits {
  /** The event loop delay above which calls are refused; 0 disables the limit. */
  readonly eventLoopDelayMs: number;
}

/** Creates a server without routes, not listening. */
export function createHttpServer(logger: FastifyBaseLogger): FastifyInstance {
  const app = fastify({
    loggerInstance: logger,
    // A child logger for each request would cost more than its log line, which names the request anyway.
    childLoggerFactory: (parent) => parent,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestId,
    bodyLimit: maxBodyBytes,
    // The limit also applies to closing, which takes as long as the requests in flight.
    pluginTimeout: 0,
    return503OnClosing: false,
    serverFactory: (listener) => createServer(serverOptions, limitUnanswered(listener)),
    frameworkErrors: (error, request, reply) => {
      // No hook runs for such a request, and so nothing limits how long its body takes to arrive.
      reply.header('Connection', 'close');
      reply.raw.once('close', () => logRequest(request, reply.statusCode, reply.elapsedTime));
      sendError(error, request, reply);
    },
    clientErrorHandler: (error, socket) => {
      const id = randomUUID();
      const isAnswered = answerUnparsable(error, socket, id);
      // A request that breaks off in the middle already has its log line.
      if (!isAnswered || ('code' in error && error.code === 'HPE_INVALID_EOF_STATE')) return;
      logger.info({ request_id: id, method: null, route: null, status: 400, error: 'validation_error' }, 'request');
    },
    routerOptions: { maxParamLength: 1_024 },
    schemaController: { compilersFactory: { buildSerializer } },
  });
  limitUnread(app.server);
  // Node itself would answer 417 without a body. No route depends on what is expected.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response));
  return app;
}

/** Adds every route of the vault, each limited to the tokens that may use it. */
export async function addVault(app: FastifyInstance, options: AppOptions): Promise<void> {
  app.decorateRequest('caller', null);
  app.decorateRequest('errorType', null);
  addRequestHooks(app, options.metrics);
  app.addSchema(ErrorBody);
  addValidation(app);
  // Before what refuses a request for its path: the body of that one is limited too.
  addReceiving(app, options.receiveLimits);
  addErrorHandling(app);
  addDraining(app, options.drainMs);
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
      inner.addHook('onRoute', (route) => completeSchema(route, roles));
      for (const plugin of routes) await inner.register(plugin);
    };
  const opening = [keyOpeningRoutes(options.apiKeys, rateLimits), statelessRoutes(options.stateless, rateLimits)];
  await app.register(allow(['gateway', 'writer'], [withinTenants([apiKeyRoutes(options.apiKeys)])]), { prefix: '/v1' });
  await app.register(allow(['gateway'], [withinTenants(opening), keyStatusRoutes(options.apiKeys)]), { prefix: '/v1' });
  const adminRoutes = [rotateRoutes(options), masterKeyRoutes(options), snapshotRoutes(options), auditRoutes(options)];
  await app.register(allow(['admin'], adminRoutes), { prefix: '/admin' });
  options.metrics.observeProcess();
  const state = new StateMetrics(options.metrics, options);
  // Metrics are not shed: an overloaded process must keep reporting.
  await app.register(allow(['admin', 'metrics'], [metricsRoutes(options.metrics, state)], false));
}

/** Encapsulates routes, so that tokens limited to tenants reach them for those tenants only. */
function withinTenants(routes: readonly FastifyPluginAsyncTypebox[]): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.addHook('preHandler', requireTenant);
    for (const plugin of routes) await app.register(plugin);
  };
}

/** A caller's own request id follows the call through the vault, if it is short and printable. */
function requestId({ headers }: IncomingMessage): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && givenRequestId.test(given) ? given : randomUUID();
}

function addRequestHooks(app: FastifyInstance, metrics: VaultMetrics): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.headers(commonHeaders(request.id));
    // Not onResponse, which is not called if the caller goes away first.
    reply.raw.once('close', () => {
      const { method, routeOptions } = request;
      const status = reply.raw.writableFinished ? reply.statusCode : abandonedStatus;
      metrics.requestFinished({ method, route: routeOptions.url, status, seconds: reply.elapsedTime / 1e3 });
      logRequest(request, status, reply.elapsedTime);
    });
    done();
  });
}

/** Logs the route's pattern, not the URL: ids and tenants are the callers' business. */
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

/**
 * Gives routes without a query schema an empty one, since a field that belongs in the body must not be dropped silently; and says
 * in openapi.yaml whose tokens a route is for.
 */
function completeSchema(route: RouteOptions, roles: readonly Role[]): void {
  route.schema = { querystring: EmptyBody, security: roles.map((role) => ({ bearer: [role] })), ...route.schema };
}
