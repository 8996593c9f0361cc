/**
 * Stops once for a signal and its echo: a terminal signals both npm and the processes that npm started, and npm forwards its own
 * signal.
 */

import { constants } from 'node:os';

/** A second signal within this time counts as an echo of the first. */
const echoMs = 1_000;
const stopSignals = ['SIGINT', 'SIGTERM'] as const;

/** Calls `stop` at the first signal; a later one ends the process at once. Returns a function that removes both handlers. */
export function onStopSignal(stop: (signal: NodeJS.Signals) => void): () => void {
  let firstAtMs: number | null = null;
  const receive = (signal: NodeJS.Signals): void => {
    if (firstAtMs !== null && performance.now() - firstAtMs > echoMs) process.exit(128 + constants.signals[signal]);
    if (firstAtMs !== null) return;
    firstAtMs = performance.now();
    stop(signal);
  };
  for (const signal of stopSignals) process.on(signal, receive);
  return () => {
    for (const signal of stopSignals) process.off(signal, receive);
  };
}
