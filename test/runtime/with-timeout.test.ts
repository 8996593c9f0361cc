/** Work is waited for only so long, and what becomes of it afterwards is nobody's error. */

import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { withTimeout } from '../../src/runtime/with-timeout.ts';

const endless = new Promise<never>(() => undefined);
const refuse = (): never => {
  throw new Error('too late');
};

describe('work that is waited for', () => {
  it('settles as it does by itself, whatever the limit, where it ends in time', async () => {
    expect(await withTimeout(Promise.resolve('done'), 60_000, refuse)).toBe('done');
    await expect(withTimeout(Promise.reject(new Error('failed')), 60_000, refuse)).rejects.toThrow('failed');
    for (const limit of [Number.POSITIVE_INFINITY, 2 ** 31])
      expect(await withTimeout(sleep(20, 'done'), limit, refuse)).toBe('done');
  });

  it('ends as the latecomer’s answer says, or its error, also where the time was over before it began', async () => {
    for (const limit of [1, 0, -1_000]) expect(await withTimeout(endless, limit, () => 'late')).toBe('late');
    await expect(withTimeout(endless, 1, refuse)).rejects.toThrow('too late');
  });

  it('may fail afterwards without anybody who handles that', async () => {
    const work = sleep(20).then(() => Promise.reject(new Error('failed unseen')));
    expect(await withTimeout(work, 1, () => 'late')).toBe('late');
    // An error that nobody handles would fail the run.
    await sleep(40);
  });
});
