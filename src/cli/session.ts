/** Opens the services for one command on an existing database, and closes them afterwards. */

import { existsSync } from 'node:fs';
import { type CoreConfig, readCliConfig } from '../config.ts';
import { keptEnvironment } from '../development.ts';
import { ConfigurationError, StorageUnavailableError } from '../errors.ts';
import { createSilentLogger } from '../logging.ts';
import { onStopSignal } from '../runtime/signals.ts';
import { buildServices, type Services } from '../services.ts';
import type { Environment } from '../settings.ts';
import { databaseFilePath, isFileUrl } from '../store/database.ts';
import { StoppedError } from './exit-codes.ts';
import { printError } from './output.ts';

/** Outside production, the environment is completed with what `npm start` keeps in `data/dev.env`. */
export function readConfig(environment: Environment): CoreConfig {
  return readCliConfig(keptEnvironment(environment));
}

/** Throws ConfigurationError if there is no such database file: a command never creates one. */
export async function withServices<Result>(config: CoreConfig, run: (services: Services) => Promise<Result>): Promise<Result> {
  const { url } = config.database;
  if (isFileUrl(url) && !existsSync(databaseFilePath(url))) {
    throw new ConfigurationError('DATABASE_URL names a file that does not exist.');
  }
  const services = buildServices(config, createSilentLogger(), { place: 'all_cores' });
  try {
    return await run(services);
  } finally {
    await services.rotator.close();
  }
}

/** Warns because the command line uses the tables of its own settings, which may differ from the service's. */
export async function warnOfUncovered({ uncoveredTables }: Services, consequence: string): Promise<void> {
  for (const table of await uncoveredTables()) {
    const advice = 'Name it in VAULT_ENCRYPTED_TABLES, or, if it is a copy, in VAULT_EXEMPT_TABLES.';
    printError(`${table} holds encrypted rows and is not covered: ${consequence}. ${advice}`, 'warning: ');
  }
}

/** A signal ends a rotation at its next step, recorded as interrupted; see {@link onStopSignal}. Throws StoppedError. */
export async function untilSignalled<Result>({ rotator }: Services, work: () => Promise<Result>): Promise<Result> {
  let received: NodeJS.Signals | null = null;
  const leave = onStopSignal((signal) => {
    received = signal;
    void rotator.close();
  });
  try {
    return await work();
  } catch (error) {
    if (received === null || !(error instanceof StorageUnavailableError)) throw error;
    throw new StoppedError(`Stopped by ${received}: run the same command again to finish.`);
  } finally {
    leave();
  }
}
