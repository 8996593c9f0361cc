/** How far a rotation is, as its callers are told. */

import { afterEach, expect, it, vi } from 'vitest';
import { Progress } from '../../src/rotation/progress.ts';

afterEach(() => void vi.useRealTimers());

it('the rate and the time left are those of the rows, also where the clock is set back meanwhile', () => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'] });
  const progress = new Progress();
  progress.begin(300);
  vi.setSystemTime(Date.now() - 3_600_000);
  vi.advanceTimersByTime(10_000);
  progress.advance(100);
  expect(progress.report()).toEqual({ rowsDone: 100, rowsTotal: 300, rowsPerSecond: 10, secondsLeft: 20 });
});
