// Decrypts random keys at a fixed rate, evenly spaced, whether or not earlier calls have been answered, and prints the 99th
// percentile of the milliseconds from when each call was due to its answer. (autocannon, given a rate, sends each second's calls
// as fast as it can and then rests.) Fails unless every answer is a 2xx.
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';
import { headers, randomKeyOf } from './support.mjs';

const connections = 64;

const url = process.argv[2];
const [rows, rate, seconds] = process.argv.slice(3).map(Number);
const { origin, pathname: path } = new URL(url);
const pool = new Pool(origin, { connections });
const milliseconds = new Float64Array(rate * seconds);
let [sent, answered] = [0, 0];
const startedAtMs = performance.now();
const dueAtMs = (call) => startedAtMs + (call / rate) * 1_000;

function fail(error) {
  throw error;
}

// Not `request`, which makes a stream for every answer: its garbage collection pauses would be most of what is measured.
function call(number) {
  pool.dispatch(
    { path, method: 'POST', headers, body: JSON.stringify(randomKeyOf(rows)) },
    {
      onRequestStart: () => undefined,
      onResponseStart: (_controller, status) => status < 300 || fail(new Error(`${url}: ${status}`)),
      onResponseData: () => undefined,
      onResponseEnd: () => {
        milliseconds[number] = performance.now() - dueAtMs(number);
        answered += 1;
      },
      onResponseError: (_controller, error) => fail(error),
    },
  );
}

while (answered < milliseconds.length) {
  for (; sent < milliseconds.length && dueAtMs(sent) <= performance.now(); sent += 1) call(sent);
  await sleep(1);
}
await pool.close();
// The first second does not count: the connections are only being opened.
const sorted = milliseconds.subarray(rate).sort();
process.stdout.write(`${sorted[Math.floor(sorted.length * 0.99)]}\n`);
