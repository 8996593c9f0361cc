/** Replacements are put down whole and in order, whatever their bindings hold, in pieces that a database server takes. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { release } from '../../src/runtime/owned-bytes.ts';
import { TextBytes } from '../../src/runtime/text-bytes.ts';
import { type Replacement, ReplacementWriter } from '../../src/store/encrypted-rows.ts';

/** A server takes 5,000,000 bytes of an argument. */
const maxPieceBytes = 3_000_000;

const hex = (length: number) => 'ab'.repeat(length / 2);

function replacementOf(rowId: number, ciphertextCharacters: number, name: string | null): Replacement {
  const ciphertext = { encryptedValue: hex(ciphertextCharacters), iv: hex(24), authTag: hex(32) };
  const binding = name === null ? null : { tenantId: name, name, provider: 'openai' };
  return { rowId: String(rowId), read: ciphertext, binding, sealed: ciphertext };
}

function piecesOf(replacements: readonly Replacement[]): Uint8Array[] {
  const writer = new ReplacementWriter();
  for (const replacement of replacements) writer.add(replacement);
  return writer.finish();
}

function membersOf(pieces: readonly Uint8Array[]): [string, unknown[]][] {
  return pieces.flatMap((piece) => Object.entries(JSON.parse(Buffer.from(piece).toString('utf8')) as Record<string, unknown[]>));
}

const names = fc.oneof(fc.constant(null), fc.string({ unit: 'binary', maxLength: 300 }), fc.constantFrom('"\\\n'));

describe('replacements', () => {
  it('come out as they went in, in pieces that are no larger than a server takes', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(names, fc.constantFrom(2, 102, 300_000)), { minLength: 1, maxLength: 60 }), (rows) => {
        const replacements = rows.map(([name, characters], index) => replacementOf(index + 1, characters, name));
        const pieces = piecesOf(replacements);
        expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThanOrEqual(maxPieceBytes);
        const expected = replacements.map(({ rowId, read, binding, sealed }) => [
          rowId,
          [`${read.iv} ${read.authTag} ${read.encryptedValue}`, sealed.encryptedValue, sealed.iv, sealed.authTag].concat([
            binding?.tenantId ?? null,
            binding?.name ?? null,
            binding?.provider ?? null,
          ] as string[]),
        ]);
        expect(membersOf(pieces)).toEqual(expected);
      }),
      { numRuns: 50 },
    );
  });

  it('are counted in bytes, of which a character of a name may be three', () => {
    const replacements = [1, 2, 3, 4, 5].map((rowId) => replacementOf(rowId, 102, '鍵'.repeat(110_000)));
    const pieces = piecesOf(replacements);
    expect(pieces.map((piece) => membersOf([piece]).length)).toEqual([4, 1]);
  });

  it('of which one alone is more than a piece is a piece by itself', () => {
    const pieces = piecesOf([replacementOf(1, 2, 'a'), replacementOf(2, 2_999_998, 'a'), replacementOf(3, 2, 'a')]);
    expect(membersOf(pieces).map(([rowId]) => rowId)).toEqual(['1', '2', '3']);
    expect(pieces.map((piece) => membersOf([piece]).length)).toEqual([1, 1, 1]);
  });

  it('that there are none of are no piece', () => {
    expect(piecesOf([])).toEqual([]);
  });
});

describe('a text in bytes', () => {
  it('is what was appended, at any length, and begins anew once it is taken', () => {
    const text = new TextBytes();
    const parts = ['', 'é', '鍵', '🔑'].map((character) => character.repeat(40_000));
    for (const round of [parts, parts.toReversed(), ['short']]) {
      for (const part of round) text.append(part);
      const whole = round.join('');
      expect(text.length).toBe(Buffer.byteLength(whole));
      expect(Buffer.from(text.take()).toString('utf8')).toBe(whole);
      expect(text.length).toBe(0);
    }
  });
});

describe('bytes that are released', () => {
  it('are empty, unless their memory is others’ as well', () => {
    const own = new Uint8Array(1_000);
    release(own);
    const part = new Uint8Array(1_000).subarray(1);
    release(part);
    expect([own.length, part.length]).toEqual([0, 999]);
  });
});
