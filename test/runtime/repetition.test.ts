/** What is done again and again goes on beyond a failure, and once it has been stopped nothing of it is under way. */

import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { Repetition } from '../../src/runtime/repetition.ts';

it('a time that fails is followed by others', async () => {
  let times = 0;
  const repetition = new Repetition(1, async () => {
    times += 1;
    throw new Error('This time it fails.');
  });
  await expect.poll(() => times).toBeGreaterThan(2);
  await repetition.stop();
});

it('what each time came to is held by nothing afterwards', async () => {
  setFlagsFromString('--expose-gc');
  const collectGarbage: () => void = runInNewContext('gc');
  const results: WeakRef<object>[] = [];
  const repetition = new Repetition(1, async () => {
    const result = {};
    results.push(new WeakRef(result));
    return result;
  });
  await expect.poll(() => results.length).toBeGreaterThan(10);
  await repetition.stop();
  await sleep(1);
  collectGarbage();
  // The last one may still be on the stack of whoever waited for it.
  expect(results.slice(0, -1).filter((result) => result.deref() !== undefined)).toEqual([]);
});

it('a stop waits for every time that is under way, and none comes after it', async () => {
  const ends: (() => void)[] = [];
  let ended = 0;
  const repetition = new Repetition(1, async () => {
    await new Promise<void>((resolve) => ends.push(resolve));
    ended += 1;
  });
  await expect.poll(() => ends.length).toBeGreaterThan(1);
  let isStopped = false;
  const stopped = repetition.stop().then(() => {
    isStopped = true;
  });
  const begun = ends.length;
  for (const end of ends.slice(1)) end();
  await sleep(20);
  expect(isStopped).toBe(false);
  ends[0]?.();
  await stopped;
  expect([ended, ends.length]).toEqual([begun, begun]);
});
