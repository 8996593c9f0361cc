/** The service: reads the configuration, prepares the database, listens, and stops after finishing the requests in flight. */

import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import closeWithGrace from 'close-with-grace';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { isProduction, readServerConfig, type ServerConfig } from './config.ts';
import { completeEnvironment, type DevelopmentEnvironment } from './development.ts';
import { ConfigurationError, StorageUnavailableError, VaultError } from './errors.ts';
import { addVault, createHttpServer } from './http/app.ts';
import { createLogger } from './logging.ts';
import { VaultMetrics } from './metrics/vault-metrics.ts';
import { onStopSignal } from './runtime/signals.ts';
import { buildServices, type Services } from './services.ts';
import { SettingsError } from './settings.ts';
import { isFileUrl } from './store/database.ts';

const stopTimeoutMs = 25_000;
/** A rotation or survey that has not ended by then is interrupted, so that its request is still answered. */
const interruptionMs = 15_000;
/** How long to wait before asking again a database server that did not answer at startup. */
const awayMs = 1_000;

// A full garbage collection takes every core for milliseconds, which delays calls. By default V8 runs one for every few megabytes
// of heap growth; this lets the heap double first. A version that does not know the flag says so and goes on.
setFlagsFromString('--heap-growing-percent=100');

// Files that the vault creates, including the database, are for no other user of this machine to read.
process.umask(0o077);

try {
  const development = isProduction(process.env) ? null : await completeEnvironment(process.env);
  const config = readServerConfig(development?.environment ?? process.env);
  const port = await start(config);
  if (development !== null) greet(development, config, port);
} catch (error) {
  process.stderr.write(`The vault cannot start:${reasonOf(error)}\n`);
  process.exit(1);
}

/** Returns the port that it listens on. */
async function start(config: ServerConfig): Promise<number> {
  const metrics = new VaultMetrics(config.keyring);
  const logger = createLogger(config.logLevel, config.isProduction, () => metrics.logLineDropped());
  const services = buildServices(config, logger, { place: 'threads', observer: metrics });
  const stopping = new AbortController();
  try {
    const isPrepared = await tryToPrepare(services, config, logger);
    const port = await serve(services, metrics, config, logger, stopping);
    if (!isPrepared) void prepareLater(services, logger, stopping.signal);
    return port;
  } catch (error) {
    await services.close();
    throw error;
  }
}

/** False if a server does not answer: a process that exits would be restarted again and again, and at last no more. */
async function tryToPrepare(services: Services, { database }: ServerConfig, logger: Logger): Promise<boolean> {
  try {
    await services.prepare();
    return true;
  } catch (error) {
    if (!(error instanceof StorageUnavailableError) || isFileUrl(database.url)) throw error;
    logger.error({ reason: error.message }, 'the database does not answer: until it does, /ready says so and nothing is served');
    return false;
  }
}

/** A rejection is logged and ends the process. */
async function prepareLater(services: Services, logger: Logger, stopping: AbortSignal): Promise<void> {
  while (!stopping.aborted) {
    await sleep(awayMs);
    try {
      await services.prepare();
      logger.info('the database answers');
      return;
    } catch (error) {
      if (!stopping.aborted && !(error instanceof StorageUnavailableError)) throw error;
    }
  }
}

async function serve(
  services: Services,
  metrics: VaultMetrics,
  config: ServerConfig,
  logger: Logger,
  stopping: AbortController,
): Promise<number> {
  const { tokens, limits, host, port, coverage, rotationDueDays } = config;
  const app = createHttpServer(logger);
  await addVault(app, { ...services, metrics, tokens, limits, rotationDueDays, encryptedTables: coverage.encryptedTables });
  const isFileLog = config.audit.log !== 'stdout';
  if (isFileLog) process.on('SIGHUP', () => void reopenAuditLog(services, logger));
  let received: NodeJS.Signals | undefined;
  const skip: ('SIGINT' | 'SIGTERM' | 'SIGHUP')[] = isFileLog ? ['SIGINT', 'SIGTERM', 'SIGHUP'] : ['SIGINT', 'SIGTERM'];
  const { close } = closeWithGrace({ delay: stopTimeoutMs, logger: false, skip }, async ({ signal = received, err }) => {
    stopping.abort();
    if (err) logger.fatal({ err }, 'stopping after an unexpected error');
    else logger.info({ signal }, 'stopping: requests in flight are finished first');
    const interruption = setTimeout(() => void services.interrupt(), interruptionMs);
    await app.close().catch((error: unknown) => logger.error({ err: error }, 'the server did not close as it should'));
    clearTimeout(interruption);
    await services.close();
    logger.info('stopped');
  });
  onStopSignal((signal) => {
    received = signal;
    void close();
  });
  await listen(app, host, port);
  return (app.server.address() as AddressInfo).port;
}

/** A log rotation tool has moved the file away: the next record begins a new file. */
async function reopenAuditLog(services: Services, logger: Logger): Promise<void> {
  try {
    await services.reopenAuditLog();
    logger.info('the audit log has been reopened');
  } catch (error) {
    logger.error({ err: error }, 'the audit log could not be reopened: records still go to the old file');
  }
}

/** On a machine without IPv6, the production default `::` falls back to IPv4. */
async function listen(app: FastifyInstance, host: string, port: number): Promise<void> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    const { code = '', syscall = '' } = error as NodeJS.ErrnoException;
    if (host === '::' && ['EAFNOSUPPORT', 'EADDRNOTAVAIL'].includes(code)) return listen(app, '0.0.0.0', port);
    if (!['listen', 'bind', 'getaddrinfo'].includes(syscall)) throw error;
    throw new ConfigurationError(`It cannot listen (${code}): check PORT and HOST.`);
  }
}

/** The tokens are not printed: the suggested command reads them from the file. */
function greet({ path, added, made }: DevelopmentEnvironment, { host }: ServerConfig, port: number): void {
  const origin = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  const lines = [`Provara Vault listens on ${origin} (development: NODE_ENV is not production).`];
  if (made.length > 0) lines.push(`Wrote ${made.join(', ')} to ${path}.`);
  if (added.includes('VAULT_GATEWAY_TOKENS')) {
    const token = `$(sed -n 's/^VAULT_GATEWAY_TOKENS=dev://p' '${path.replaceAll("'", `'\\''`)}')`;
    lines.push(
      'Store a provider key:',
      `  curl -s '${origin}/v1/api-keys' -H "Authorization: Bearer ${token}" -H 'Content-Type: application/json' ` +
        `-d '{"name":"OPENAI_API_KEY","provider":"openai","value":"sample-provider-key-0001"}'`,
    );
  }
  // The vault serves even if standard output accepts nothing.
  process.stdout.on('error', () => undefined).write(`${lines.join('\n')}\n`);
}

function reasonOf(error: unknown): string {
  if (error instanceof SettingsError) return error.problems.map((problem) => `\n  - ${problem}`).join('');
  if (error instanceof VaultError) return ` ${error.message}`;
  return ` ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
