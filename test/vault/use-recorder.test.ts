/** Uses are written few at a time, so that no request waits long for them, and none that waits is lost at the end. */

import { expect, it } from 'vitest';
import { StorageUnavailableError } from '../../src/errors.ts';
import { UseRecorder } from '../../src/vault/use-recorder.ts';

it('at most 125 are written at a time, and the others with the next or when the vault stops', async () => {
  const written: string[][] = [];
  const uses = new UseRecorder(async (usedAt) => void written.push([...usedAt.keys()]));
  const ids = Array.from({ length: 1_000 }, (_, index) => `row-${index}`);
  for (const id of ids) expect(uses.note(id, null)).toBe(true);
  await uses.flush();
  await uses.flush();
  await uses.close();
  expect(written.map((some) => some.length)).toEqual([125, 125, 750]);
  expect(written.flat()).toEqual(ids);
});

it('what could not be written is written later, behind what waited for its turn', async () => {
  const written: string[] = [];
  let isFailing = true;
  const uses = new UseRecorder(async (usedAt) => {
    if (isFailing) throw new StorageUnavailableError('The database is away.');
    written.push(...usedAt.keys());
  });
  const ids = Array.from({ length: 130 }, (_, index) => `row-${index}`);
  for (const id of ids) uses.note(id, null);
  await uses.flush();
  isFailing = false;
  await uses.close();
  expect(written).toEqual([...ids.slice(125), ...ids.slice(0, 125)]);
});

it('a use within an hour of the last one on record is not written again', async () => {
  const written: string[] = [];
  const uses = new UseRecorder(async (usedAt) => void written.push(...usedAt.keys()));
  const now = Math.floor(Date.now() / 1000);
  expect([uses.note('recent', now - 3_000), uses.note('long ago', now - 3_600)]).toEqual([false, true]);
  await uses.close();
  expect(written).toEqual(['long ago']);
});

it('what the database refuses is not tried again, and keeps nothing else from being written', async () => {
  const tried: string[][] = [];
  const uses = new UseRecorder(async (usedAt) => {
    tried.push([...usedAt.keys()]);
    if (usedAt.has('refused')) throw new Error('Such a row is refused.');
  });
  uses.note('refused', null);
  await uses.flush();
  uses.note('written', null);
  await uses.close();
  expect(tried).toEqual([['refused'], ['written']]);
});
