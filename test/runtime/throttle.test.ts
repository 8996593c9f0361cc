/** Work in the background leaves the processors to others for most of the time, however it is scheduled. */

import { afterEach, expect, it, vi } from 'vitest';
import { createThrottle } from '../../src/runtime/throttle.ts';

afterEach(() => vi.restoreAllMocks());

/** Rests that follow when each row takes so many milliseconds. */
function restsAfter(rowsMs: readonly number[]): number[] {
  let nowMs = 1_000;
  const rests: number[] = [];
  vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
  vi.spyOn(Atomics, 'wait').mockImplementation((_array: unknown, _index: unknown, _value: unknown, ms?: number) => {
    rests.push(ms ?? 0);
    nowMs += ms ?? 0;
    return 'timed-out';
  });
  const rest = createThrottle();
  for (const rowMs of rowsMs) {
    nowMs += rowMs;
    rest();
  }
  return rests;
}

it('rests twice as long as it has worked, once that is a quarter of a millisecond', () => {
  expect(restsAfter([0.125, 0.125, 0.125, 0.125, 0.125])).toEqual([0.5, 0.5]);
});

it('rests a millisecond at most: what took long was mostly waiting', () => {
  expect(restsAfter([3, 0.25, 3_600_000])).toEqual([1, 0.5, 1]);
});
