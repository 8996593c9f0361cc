// Puts load on a route from this process, over loopback, with a request of its own order for each connection.
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import autocannon from 'autocannon';
import { Pool } from 'undici';
import { gatewayToken } from './support.mjs';

const headers = { authorization: `Bearer ${gatewayToken}`, 'content-type': 'application/json' };
const requestsOfConnection = 500;

/** Calls a route from so many connections, each sending bodies at random, as fast as it goes. Throws where an answer is no 2xx. */
export async function load(url, bodyOf, { connections = 64, seconds = 3 } = {}) {
  const requests = () =>
    Array.from({ length: requestsOfConnection }, () => ({ method: 'POST', headers, body: JSON.stringify(bodyOf(randomInt)) }));
  const setupClient = (client) => client.setRequests(requests());
  const result = await autocannon({ url, connections, duration: seconds, setupClient });
  const failed = result.non2xx + result.errors + result.timeouts;
  if (failed > 0) throw new Error(`${url}: ${failed} calls failed (${JSON.stringify(result.statusCodeStats)})`);
  return { perSecond: result.requests.total / result.duration };
}

/**
 * Calls a route so many times a second, evenly spaced, whether or not the calls before have been answered, and answers the 99th
 * percentile of the time from when each was due to its answer. (autocannon, given a rate, sends each second's calls as fast as it
 * can and then rests.) Throws where an answer is no 2xx.
 */
export async function steadyLoad(url, bodyOf, { rate, seconds = 5, connections = 64 }) {
  const { origin, pathname: path } = new URL(url);
  const pool = new Pool(origin, { connections });
  const milliseconds = new Float64Array(rate * seconds);
  const startedAtMs = performance.now();
  const dueAtMs = (call) => startedAtMs + (call / rate) * 1_000;
  let [sent, answered] = [0, 0];
  let failure = null;
  // Not `request`, which makes a stream of every answer: the pauses of its collector would be most of what is measured.
  const call = (number) => {
    pool.dispatch(
      { path, method: 'POST', headers, body: JSON.stringify(bodyOf(randomInt)) },
      {
        onRequestStart: () => undefined,
        onResponseStart: (_controller, statusCode) => {
          if (statusCode >= 300) failure = new Error(`${url}: ${statusCode}`);
        },
        onResponseData: () => undefined,
        onResponseEnd: () => {
          milliseconds[number] = performance.now() - dueAtMs(number);
          answered += 1;
        },
        onResponseError: (_controller, error) => {
          failure = error;
        },
      },
    );
  };
  while (answered < milliseconds.length && failure === null) {
    for (; sent < milliseconds.length && dueAtMs(sent) <= performance.now(); sent += 1) call(sent);
    await sleep(1);
  }
  await pool.close();
  if (failure !== null) throw failure;
  // Of the first second nothing counts: the connections are only being opened.
  const sorted = milliseconds.subarray(rate).sort();
  return sorted[Math.floor(sorted.length * 0.99)];
}
