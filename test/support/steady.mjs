// Reads and writes through the store for a long time, and prints by how many MiB its memory has grown after the warm-up.
// Arguments: the database's URL, the number of reads, the number of writes. Runs the built code in a process of its own.
import { readCliConfig } from '../../dist/config.js';
import { createSilentLogger } from '../../dist/logging.js';
import { buildServices } from '../../dist/services.js';

const actor = { name: 'tester', role: 'gateway', requestId: null };
const [, , url, reads, writes] = process.argv;
const warmUp = 0.1;
const names = 1_000;
const callers = 64;
const config = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: 'a1'.repeat(32) });
const services = buildServices({ ...config, audit: { log: '/dev/null', anchorSeconds: 300 } }, createSilentLogger());
await services.prepare();
const store = (index) =>
  services.apiKeys.store(actor, { tenantId: null, name: `K-${index % names}`, provider: 'openai', value: `sample-${index}` });

/** As many calls at once as a busy gateway makes. */
async function repeat(count, step) {
  for (let from = 0; from < count; from += callers) {
    await Promise.all(Array.from({ length: Math.min(callers, count - from) }, (_, offset) => step(from + offset)));
  }
}

await repeat(names, store);
await repeat(reads * warmUp, (index) => services.apiKeys.decrypt(actor, null, `K-${index % names}`));
await repeat(writes * warmUp, store);
const before = process.memoryUsage.rss();
await repeat(reads, (index) => services.apiKeys.decrypt(actor, null, `K-${index % names}`));
await repeat(writes, store);
const grownMiB = (process.memoryUsage.rss() - before) / 1024 / 1024;
await services.close();
process.stdout.write(`${grownMiB}\n`);
