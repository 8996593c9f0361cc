/** Lets a thread have no more of the processors than nobody else wants. */

import { constants, setPriority } from 'node:os';

/**
 * Of the thread that calls, for good. Not for one that takes a lock of the database: whoever waits for that would wait for all
 * others. Does nothing but on Linux, since elsewhere a priority is the whole process's (setpriority(2)).
 */
export function workInBackground(): void {
  if (process.platform !== 'linux') return;
  try {
    setPriority(constants.priority.PRIORITY_LOW);
  } catch {
    // Where the system forbids that, the work is done like all other.
  }
}
