/**
 * Loaded before a process's own code, on each of its threads: records each rest of a thread as a line with the thread's entry.
 */

import { appendFileSync } from 'node:fs';
import { basename } from 'node:path';
import process from 'node:process';

const wait = Atomics.wait;
Atomics.wait = (...args) => {
  appendFileSync(process.env.NOTED_RESTS, `${basename(process.argv[1], '.js')}\n`);
  return wait(...args);
};
