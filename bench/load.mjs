// Puts load on a route over loopback, from a process other than the server's.
import autocannon from 'autocannon';
import { headers, run } from './support.mjs';

const requestsOfConnection = 500;

/**
 * Calls a route from `connections` connections, each sending random bodies as fast as possible. Throws unless every answer is a
 * 2xx.
 */
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
 * A small young generation, collected only on the load's own thread, and an old generation large enough that it is never
 * collected. V8 compiles in the background on one thread instead of four.
 */
const quietOptions = ['--max-semi-space-size=4', '--single-threaded-gc', '--initial-old-space-size=512', '--v8-pool-size=1'];

/**
 * Decrypts `rate` keys a second of a table of `rows` rows, as described in `steady-load.mjs`, and returns the 99th percentile in
 * milliseconds over all seconds but the first. Runs in a new process each time: in one that has put load on routes before, the
 * garbage collector pauses the load and takes both cores from the server, which delays calls of any route.
 */
export async function steadyLoad(url, rows, rate, seconds) {
  const { stdout } = await run('steady-load.mjs', [url, rows, rate, seconds], {}, quietOptions);
  return Number(stdout);
}
