/** No seal goes uncounted: what the database did not take is kept for it. */

import { expect, it } from 'vitest';
import { StorageUnavailableError } from '../../src/errors.ts';
import { SealMeter } from '../../src/keys/seal-meter.ts';
import { keyIdA, keyIdB } from '../support/vault.ts';

it('what could not be added is added later, with what has come since, and nothing twice', async () => {
  const added: unknown[] = [];
  let isFailing = true;
  const seals = new SealMeter(async (each) => {
    if (isFailing) throw new StorageUnavailableError('The database is away.');
    added.push([...each]);
  });
  seals.note(keyIdA, 2);
  await seals.flush();
  seals.note(keyIdA);
  seals.note(keyIdB);
  expect([seals.pending(keyIdA), seals.pending(keyIdB)]).toEqual([3, 1]);
  isFailing = false;
  await seals.flush();
  await seals.close();
  expect(added).toEqual([
    [
      [keyIdA, 3],
      [keyIdB, 1],
    ],
  ]);
  expect(seals.pending(keyIdA)).toBe(0);
});
