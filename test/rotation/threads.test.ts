/** The service tries rotations, and begins them, one after the other, and ends what nobody waits for. */

import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import type { ThreadSettings } from '../../src/config.ts';
import { StorageUnavailableError } from '../../src/errors.ts';
import { RotationThreads } from '../../src/rotation/thread.ts';

/** A thread that counts those at work beside it and all that were started, and ends after a moment, or once it is told to. */
const counting = new URL(
  `data:text/javascript,${encodeURIComponent(`
  import { parentPort } from 'node:worker_threads';
  parentPort.once('message', ({ number, request: { settings: { counts, endless, isTold } } }) => {
    const [atWork, overlaps, started] = [0, 1, 2];
    Atomics.add(counts, started, 1);
    if (Atomics.add(counts, atWork, 1) > 0) Atomics.store(counts, overlaps, 1);
    const end = (outcome) => {
      Atomics.sub(counts, atWork, 1);
      parentPort.postMessage({ number, outcome });
    };
    if (isTold) parentPort.postMessage({ number, note: { kind: 'started', id: 'sample' } });
    parentPort.on('message', () => end({ kind: 'refused', code: 'storage_unavailable', message: 'told to stop' }));
    if (!endless) setTimeout(() => end({ kind: 'done', response: { id: 'sample' } }), 50);
  });
`)}`,
);

function start(endless: boolean, isTold = false) {
  const counts = new Int32Array(new SharedArrayBuffer(12));
  const settings = { counts, endless, isTold } as unknown as ThreadSettings;
  const threads = new RotationThreads({
    entry: counting,
    settings,
    logger: pino({ level: 'silent' }),
    onSwitched: () => undefined,
  });
  onTestFinished(() => threads.close());
  return { threads, counts };
}

it('tries one after the other', async () => {
  const { threads, counts } = start(false);
  await Promise.all([threads.dryRun({}), threads.dryRun({}), threads.dryRun({})]);
  expect([...counts]).toEqual([0, 0, 3]);
});

it('begins one after the other', async () => {
  const { threads, counts } = start(false);
  const begun = await Promise.all([threads.start({}), threads.start({}), threads.start({})]);
  for (const { done } of begun) await done;
  expect([...counts]).toEqual([0, 0, 3]);
});

it('keeps nobody waiting once one has begun: who asks then is told of it', async () => {
  const { threads, counts } = start(true, true);
  const begun = [await threads.start({}), await threads.start({})];
  expect([...counts]).toEqual([2, 1, 2]);
  for (const { done } of begun) void done.catch(() => undefined);
});

it('tries none that nobody waits for, and ends one that nobody waits for any more', async () => {
  const { threads, counts } = start(true);
  const gone = new AbortController();
  const ends = Promise.allSettled([threads.dryRun({}, { signal: gone.signal }), threads.dryRun({}, { signal: gone.signal })]);
  await expect.poll(() => counts[2]).toBe(1);
  const reason = new StorageUnavailableError('Nobody waits for the answer.');
  gone.abort(reason);
  expect(await ends).toMatchObject([{ reason: { message: 'told to stop' } }, { reason }]);
  expect([...counts]).toEqual([0, 0, 1]);
});
