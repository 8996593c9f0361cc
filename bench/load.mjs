// Puts load on a route from this process, over loopback, with a request of its own order for each connection.
import { randomInt } from 'node:crypto';
import autocannon from 'autocannon';
import { gatewayToken } from './support.mjs';

const headers = { authorization: `Bearer ${gatewayToken}`, 'content-type': 'application/json' };
const requestsOfConnection = 500;

/**
 * Calls a route from so many connections, each sending bodies at random; as fast as it goes, or at a rate for all of them
 * together. Throws where an answer is no 2xx.
 */
export async function load(url, bodyOf, { connections = 64, seconds = 3, rate = 0 } = {}) {
  const requests = () =>
    Array.from({ length: requestsOfConnection }, () => ({ method: 'POST', headers, body: JSON.stringify(bodyOf(randomInt)) }));
  const milliseconds = [];
  const result = await new Promise((resolve, reject) => {
    const options = { url, connections, duration: seconds, ...(rate > 0 && { overallRate: rate }) };
    const setupClient = (client) => client.setRequests(requests());
    const instance = autocannon({ ...options, setupClient }, (error, outcome) => (error ? reject(error) : resolve(outcome)));
    // Its own histogram counts whole milliseconds.
    instance.on('response', (_client, _status, _bytes, responseTimeMs) => milliseconds.push(responseTimeMs));
  });
  const failed = result.non2xx + result.errors + result.timeouts;
  if (failed > 0) throw new Error(`${url}: ${failed} calls failed (${JSON.stringify(result.statusCodeStats)})`);
  const sorted = Float64Array.from(milliseconds).sort();
  return { perSecond: result.requests.total / result.duration, p99Ms: sorted[Math.floor(sorted.length * 0.99)] };
}
