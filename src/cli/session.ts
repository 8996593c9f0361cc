/** Opens the services for one command on an existing database, and closes them after it. */

import { existsSync } from 'node:fs';
import { type CoreConfig, readCliConfig } from '../config.ts';
import { keptEnvironment } from '../development.ts';
import { ConfigurationError } from '../errors.ts';
import { createSilentLogger } from '../logging.ts';
import { buildServices, type Services } from '../services.ts';
import type { Environment } from '../settings.ts';
import { databaseFilePath, isFileUrl } from '../store/database.ts';

/** The environment, completed outside production by what `npm start` keeps in `data/dev.env`. */
export function readConfig(environment: Environment): CoreConfig {
  return readCliConfig(keptEnvironment(environment));
}

/** Throws ConfigurationError where there is no such database file: a command never makes one. */
export async function withServices<Result>(config: CoreConfig, run: (services: Services) => Promise<Result>): Promise<Result> {
  const { url } = config.database;
  if (isFileUrl(url) && !existsSync(databaseFilePath(url))) {
    throw new ConfigurationError('DATABASE_URL names a file that does not exist.');
  }
  const services = buildServices(config, createSilentLogger(), undefined, 'all_cores');
  const stop = (): void => void services.rotator.close();
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    return await run(services);
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await services.rotator.close();
  }
}
