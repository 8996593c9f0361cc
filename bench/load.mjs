// Puts load on a route over loopback, from another process than the server's.
import autocannon from 'autocannon';
import { headers, run } from './support.mjs';

const requestsOfConnection = 500;

/** Calls a route from so many connections, each sending bodies at random, as fast as it goes. Throws where an answer is no 2xx. */
export async function load(url, bodyOf, { connections = 64, seconds = 3 } = {}) {
  const request = () => ({ method: 'POST', headers, body: JSON.stringify(bodyOf()) });
  const requests = () => Array.from({ length: requestsOfConnection }, request);
  const setupClient = (client) => client.setRequests(requests());
  const result = await autocannon({ url, connections, duration: seconds, setupClient });
  const failed = result.non2xx + result.errors + result.timeouts;
  if (failed > 0) throw new Error(`${url}: ${failed} calls failed (${JSON.stringify(result.statusCodeStats)})`);
  return { perSecond: result.requests.total / result.duration };
}

/**
 * A small young generation, on no thread but the load's own; and room for what outlives it, so that it is never all collected. What
 * V8 compiles beside it, it does on one thread in place of four.
 */
const quietOptions = ['--max-semi-space-size=4', '--single-threaded-gc', '--initial-old-space-size=512', '--v8-pool-size=1'];

/**
 * Decrypts so many keys a second of a table of so many rows, as `steady-load.mjs` says, and answers the 99th percentile in
 * milliseconds, of all seconds but the first. In a process of its own each time: the collector of one that has put load on routes
 * before stops it, and takes both cores from the server, so that calls would be late whatever the route.
 */
export async function steadyLoad(url, rows, rate, seconds) {
  const { stdout } = await run('steady-load.mjs', [url, rows, rate, seconds], {}, quietOptions);
  return Number(stdout);
}
