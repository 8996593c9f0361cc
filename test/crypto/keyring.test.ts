/** A keyring opens a row with whichever of its keys fits, says which one did, and lets a wrong hint hide nothing. */

import { describe, expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../../src/crypto/master-key.ts';
import { type RowBinding, sealRow } from '../../src/crypto/row.ts';

const keyA = parseMasterKey('a1'.repeat(32));
const keyB = parseMasterKey('b2'.repeat(32));
const keyC = parseMasterKey('c3'.repeat(32));
const binding: RowBinding = { table: 'api_keys', tenantId: 'tenant-a', name: 'OPENAI_API_KEY', provider: 'openai' };
const plaintext = Buffer.from('sample-value-0001');
const formats = [
  { format: 1, sealedWith: null },
  { format: 2, sealedWith: binding },
];

function keyringOf(...keys: readonly MasterKey[]): Keyring {
  return new Keyring(keys.map((key, index) => ({ source: `SAMPLE_${index}`, key })));
}

describe('the entries', () => {
  it('stand in the order given, each with the settings that hold it', () => {
    const keyring = new Keyring([
      { source: 'PROVARA_MASTER_KEY', key: keyA },
      { source: 'PROVARA_MASTER_KEY_NEW', key: keyB },
    ]);
    expect(keyring.entries).toEqual([
      { sources: ['PROVARA_MASTER_KEY'], key: keyA },
      { sources: ['PROVARA_MASTER_KEY_NEW'], key: keyB },
    ]);
  });

  it('hold a key once that stands under two settings, and name both', () => {
    const keyring = new Keyring([
      { source: 'PROVARA_MASTER_KEY', key: parseMasterKey('ab'.repeat(32)) },
      { source: 'PROVARA_MASTER_KEY_NEW', key: keyB },
      { source: 'PROVARA_MASTER_KEY_OLD', key: parseMasterKey('AB'.repeat(32)) },
    ]);
    expect(keyring.entries.map(({ sources }) => sources)).toEqual([
      ['PROVARA_MASTER_KEY', 'PROVARA_MASTER_KEY_OLD'],
      ['PROVARA_MASTER_KEY_NEW'],
    ]);
  });

  it('are found by key id, and by no other', () => {
    const keyring = keyringOf(keyA, keyB);
    expect(keyring.get(keyB.id)).toBe(keyB);
    expect(keyring.get(keyC.id)).toBeUndefined();
    expect(keyring.get('')).toBeUndefined();
  });
});

describe.each(formats)('a row in format $format', ({ sealedWith }) => {
  it.each([
    ['the key that sealed it', keyB.id],
    ['another key of the keyring', keyA.id],
    ['a key that the keyring does not hold', keyC.id],
    ['nothing that is a key id', ''],
    ['no key', null],
  ])('opens with the key that sealed it when the hint names %s', (_, hint) => {
    const row = sealRow(keyB, sealedWith, plaintext);
    const opened = keyringOf(keyA, keyB).openRow(binding, row, hint);
    expect(opened).toEqual({ key: keyB, plaintext });
  });

  it('does not open when the keyring does not hold its key, whatever the hint', () => {
    const row = sealRow(keyC, sealedWith, plaintext);
    for (const hint of [keyA.id, keyC.id, null]) {
      expect(keyringOf(keyA, keyB).openRow(binding, row, hint)).toBeNull();
    }
    expect(new Keyring([]).openRow(binding, row, keyC.id)).toBeNull();
  });
});

describe('the hint', () => {
  it('names the key that is tried first', () => {
    const twin: MasterKey = { ...keyA, id: '0123456789abcdef' };
    const keyring = keyringOf(keyA, twin);
    const row = sealRow(keyA, null, plaintext);
    expect(keyring.openRow(null, row, twin.id)?.key).toBe(twin);
    expect(keyring.openRow(null, row, null)?.key).toBe(keyA);
  });
});
