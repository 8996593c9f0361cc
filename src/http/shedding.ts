/** Load shedding: refuses new calls while the process cannot keep up, so that accepted ones are answered. */

import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { FastifyInstance, onRequestHookHandler } from 'fastify';
import { overloaded } from '../errors.ts';

const sampleIntervalMs = 2_000;
const resolutionMs = 20;

/**
 * A hook that throws StorageUnavailableError while the event loop delay exceeds `maxDelayMs`; 0 disables it. It uses the median
 * of a sample: one long step, or a machine that stalls for a moment, does not mean that the process cannot keep up.
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
