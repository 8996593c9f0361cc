/** Refuses calls while the process cannot keep up, so that those it has taken are answered. */

import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { FastifyInstance, onRequestHookHandler } from 'fastify';
import { overloaded } from '../errors.ts';

const sampleIntervalMs = 2_000;
const resolutionMs = 20;

/**
 * A hook that throws StorageUnavailableError while the event loop is later than `maxDelayMs`; 0 is never. What counts is the median of a
 * sample: one long step, or a machine that stood still for a moment, is not yet a process that cannot keep up.
 */
export function createShedding(app: FastifyInstance, maxDelayMs: number): onRequestHookHandler {
  if (maxDelayMs === 0) return (_request, _reply, done) => done();
  const delays = monitorEventLoopDelay({ resolution: resolutionMs });
  delays.enable();
  let isLate = false;
  const timer = setInterval(() => {
    isLate = delays.count > 0 && delays.percentile(50) / 1e6 - resolutionMs > maxDelayMs;
    delays.reset();
  }, sampleIntervalMs).unref();
  app.addHook('onClose', async () => {
    clearInterval(timer);
    delays.disable();
  });
  return (_request, _reply, done) => done(isLate ? overloaded() : undefined);
}
