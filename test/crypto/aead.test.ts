/** AES-256-GCM as published vectors define it, and nothing that they allow beyond a 16-byte tag. */

import { createSecretKey } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { open, type Sealed, seal, tagLength } from '../../src/crypto/aead.ts';

interface Case {
  readonly source: string;
  readonly key: string;
  readonly iv: string;
  readonly associated_data: string;
  readonly ciphertext: string;
  readonly tag: string;
}

interface CaseWithPlaintext extends Case {
  readonly plaintext: string;
}

interface WycheproofGroup {
  readonly tagSize: number;
  readonly tests: readonly {
    readonly tcId: number;
    readonly key: string;
    readonly iv: string;
    readonly aad: string;
    readonly msg: string;
    readonly ct: string;
    readonly tag: string;
    readonly result: 'valid' | 'invalid';
  }[];
}

const nist = JSON.parse(readFileSync(new URL('data/nist-aes-256-gcm.json', import.meta.url), 'utf8')) as {
  readonly cases: readonly CaseWithPlaintext[];
  readonly refused: readonly Case[];
  readonly truncated: readonly CaseWithPlaintext[];
};
const wycheproofPath = new URL('../../../shared/vectors/wycheproof-aes-256-gcm.json', import.meta.url);

const key = createSecretKey(Buffer.from('a1'.repeat(32), 'hex'));
const iv = Buffer.alloc(12, 7);
const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const anyIv = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((array) => Buffer.from(array));

function fromHex(hex: string): Buffer {
  return Buffer.from(hex, 'hex');
}

function openHex(given: { key: string; iv: string; aad: string; ct: string; tag: string }): string | null {
  const sealed = { iv: fromHex(given.iv), ciphertext: fromHex(given.ct), tag: fromHex(given.tag) };
  return open(createSecretKey(fromHex(given.key)), sealed, fromHex(given.aad))?.toString('hex') ?? null;
}

function sealHex(given: { key: string; iv: string; aad: string; msg: string }): { ct: string; tag: string } {
  const { ciphertext, tag } = seal(
    createSecretKey(fromHex(given.key)),
    fromHex(given.iv),
    fromHex(given.msg),
    fromHex(given.aad),
  );
  return { ct: ciphertext.toString('hex'), tag: tag.toString('hex') };
}

function flipBit(buffer: Buffer, bit: number): Buffer {
  const flipped = Buffer.from(buffer);
  flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return flipped;
}

describe('published NIST cases', () => {
  it.each(nist.cases)('seals and opens $source', ({ key, iv, associated_data: aad, plaintext, ciphertext: ct, tag }) => {
    expect(sealHex({ key, iv, aad, msg: plaintext })).toEqual({ ct, tag });
    expect(openHex({ key, iv, aad, ct, tag })).toBe(plaintext);
  });

  it.each(nist.refused)('refuses $source', ({ key, iv, associated_data: aad, ciphertext: ct, tag }) => {
    expect(openHex({ key, iv, aad, ct, tag })).toBeNull();
  });

  it.each(nist.truncated)(
    'refuses the tag that is right but short of $source',
    ({ key, iv, associated_data: aad, plaintext, ciphertext: ct, tag }) => {
      const whole = sealHex({ key, iv, aad, msg: plaintext });
      expect([whole.ct, whole.tag.slice(0, tag.length)]).toEqual([ct, tag]);
      expect(openHex({ key, iv, aad, ct, tag: whole.tag })).toBe(plaintext);
      expect(openHex({ key, iv, aad, ct, tag })).toBeNull();
    },
  );
});

describe.skipIf(!existsSync(wycheproofPath))('Wycheproof cases', () => {
  const groups = (): readonly WycheproofGroup[] => JSON.parse(readFileSync(wycheproofPath, 'utf8')).testGroups;
  const tests = (hasWholeTag: boolean) =>
    groups().flatMap((group) => ((group.tagSize === tagLength * 8) === hasWholeTag ? group.tests : []));

  it('seals and opens every valid one', () => {
    const valid = tests(true).filter(({ result }) => result === 'valid');
    expect(valid.length).toBeGreaterThan(0);
    for (const test of valid) {
      expect(sealHex(test), `case ${test.tcId}`).toEqual({ ct: test.ct, tag: test.tag });
      expect(openHex(test), `case ${test.tcId}`).toBe(test.msg);
    }
  });

  it('refuses every invalid one, and every one whose tag is not 16 bytes', () => {
    const invalid = tests(true).filter(({ result }) => result === 'invalid');
    expect(invalid.length).toBeGreaterThan(0);
    for (const test of [...invalid, ...tests(false)]) expect(openHex(test), `case ${test.tcId}`).toBeNull();
  });
});

describe('a sealed text', () => {
  it('opens to the plaintext it was sealed from, whatever the bytes, the IV and the associated data', () => {
    fc.assert(
      fc.property(bytes, anyIv, fc.option(bytes), (plaintext, anyIv, associatedData) => {
        const sealed = seal(key, anyIv, plaintext, associatedData);
        expect(sealed.tag).toHaveLength(tagLength);
        expect(sealed.ciphertext).toHaveLength(plaintext.length);
        expect(open(key, sealed, associatedData)).toEqual(plaintext);
      }),
    );
  });

  it('does not open once any one bit of it or of its associated data is changed', () => {
    const associatedData = Buffer.from('sample associated data');
    const sealed = seal(key, iv, Buffer.from('sample-value-0001'), associatedData);
    for (const field of ['iv', 'ciphertext', 'tag'] as const) {
      for (let bit = 0; bit < sealed[field].length * 8; bit += 1) {
        const changed: Sealed = { ...sealed, [field]: flipBit(sealed[field], bit) };
        expect(open(key, changed, associatedData), `${field}, bit ${bit}`).toBeNull();
      }
    }
    for (let bit = 0; bit < associatedData.length * 8; bit += 1) {
      expect(open(key, sealed, flipBit(associatedData, bit)), `associated data, bit ${bit}`).toBeNull();
    }
  });

  it('does not open under a key that differs in one bit', () => {
    const sealed = seal(key, iv, Buffer.from('sample-value-0001'), null);
    for (let bit = 0; bit < 256; bit += 1) {
      expect(open(createSecretKey(flipBit(key.export(), bit)), sealed, null), `bit ${bit}`).toBeNull();
    }
  });

  it('does not open with its tag cut to 0 to 15 bytes, nor with a longer one', () => {
    const sealed = seal(key, iv, Buffer.from('sample-value-0001'), null);
    for (let length = 0; length < tagLength; length += 1) {
      expect(open(key, { ...sealed, tag: sealed.tag.subarray(0, length) }, null), `${length} bytes`).toBeNull();
    }
    expect(open(key, { ...sealed, tag: Buffer.concat([sealed.tag, Buffer.alloc(1)]) }, null)).toBeNull();
  });

  it('does not open with a byte of ciphertext missing or added, nor without an IV', () => {
    const sealed = seal(key, iv, Buffer.from('sample-value-0001'), null);
    expect(open(key, { ...sealed, ciphertext: sealed.ciphertext.subarray(1) }, null)).toBeNull();
    expect(open(key, { ...sealed, ciphertext: sealed.ciphertext.subarray(0, -1) }, null)).toBeNull();
    expect(open(key, { ...sealed, ciphertext: Buffer.concat([sealed.ciphertext, Buffer.alloc(1)]) }, null)).toBeNull();
    expect(open(key, { ...sealed, iv: Buffer.alloc(0) }, null)).toBeNull();
  });
});
