// Stores keys as fast as possible, and prints each name once it is acknowledged. Arguments: the database's URL, a prefix for the
// names, and the duration in milliseconds (0: until it is killed). Runs the built code in a process of its own.
import { readCliConfig } from '../../dist/config.js';
import { createSilentLogger } from '../../dist/logging.js';
import { buildServices } from '../../dist/services.js';

const actor = { name: 'tester', role: 'gateway', requestId: null };
const [, , url, prefix, milliseconds] = process.argv;
const config = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: 'a1'.repeat(32) });
const services = buildServices(config, createSilentLogger());
await services.prepare();
const end = Number(milliseconds) === 0 ? Number.POSITIVE_INFINITY : Date.now() + Number(milliseconds);
for (let index = 0; Date.now() < end; index += 1) {
  const name = `${prefix}-${index}`;
  await services.apiKeys.store(actor, { tenantId: null, name, provider: 'openai', value: 'sample' });
  process.stdout.write(`${name}\n`);
}
await services.close();
