/** What may be stored as a provider key comes back as it was meant, and a mask gives away next to nothing of it. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ValidationError } from '../../src/errors.ts';
import { assertPlaintext, maskValue, maxPlaintextBytes, normalizeValue } from '../../src/vault/values.ts';

const bullets = '••••••••';
const serviceAccount = '{\n  "type": "service_account",\r\n\t"client_email": "sample@пример.example"\n}\n';

describe('a value that is stored', () => {
  it.each([
    ['a space', ' '],
    ['a newline', '\n'],
    ['a carriage return and a newline', '\r\n'],
    ['tabs and spaces', '\t \t'],
    ['a byte order mark', '\ufeff'],
  ])('loses %s before and after it', (_, space) => {
    expect(normalizeValue(`${space}sample-provider-key-0001${space}`)).toBe('sample-provider-key-0001');
  });

  it('keeps every printable ASCII character, spaces inside too', () => {
    const printable = Array.from({ length: 94 }, (_, index) => String.fromCharCode(0x21 + index)).join('');
    expect(normalizeValue(printable)).toBe(printable);
    expect(normalizeValue('with  spaces inside')).toBe('with  spaces inside');
  });

  it('is left as it is by a second pass, and could be sent as a header', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(' ', '\t', '\n', '~', '!', 'k', '"', '{', '}', '[') }), (value) => {
        fc.pre(value.trim() !== '' && !/[\t\n]/.test(value.trim()));
        const stored = normalizeValue(value);
        expect(normalizeValue(stored)).toBe(stored);
        expect(() => new Headers({ authorization: stored })).not.toThrow();
      }),
    );
  });

  it.each([
    ['empty', ''],
    ['a space alone', ' '],
    ['white space alone', ' \t\r\n\u00a0\ufeff'],
  ])('is refused when it is %s', (_, value) => {
    expect(() => normalizeValue(value)).toThrow(ValidationError);
  });

  it.each([
    ['a newline inside', 'sample\nkey'],
    ['a carriage return inside', 'sample\rkey'],
    ['a tab inside', 'sample\tkey'],
    ['a null character', 'sample\u0000key'],
    ['a delete character', 'sample\u007fkey'],
    ['a letter beyond ASCII', 'sample-kéy'],
    ['an emoji', 'sample-🔑'],
    ['half of a surrogate pair', 'sample-\ud83d'],
    ['JSON text that is not an object', '["sample",\n"key"]'],
    ['an object that is not quite JSON', "{\n'type': 'service_account'\n}"],
    ['something after a JSON object', '{\n"type": "service_account"\n}\n;'],
  ])('is refused with %s, and the error does not show it', (_, value) => {
    expect(() => normalizeValue(value)).toThrow(ValidationError);
    expect(() => normalizeValue(value)).not.toThrow(/sample|service_account/);
  });

  it('is kept byte for byte where it is a JSON object', () => {
    for (const value of [serviceAccount, ` ${serviceAccount}`, '{}', '{"a":"ключ-鍵-🔑"}', '\r\n{"a" : 1.0 , "a":2}\t']) {
      expect(normalizeValue(value)).toBe(value);
    }
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.nat(3),
        fc.constantFrom('', '\n', ' '),
        (object, indent, space) => {
          const value = space + JSON.stringify(object, null, indent) + space;
          expect(normalizeValue(value)).toBe(value);
        },
      ),
    );
  });

  it('is refused where it is a JSON object that holds half of a surrogate pair', () => {
    expect(() => normalizeValue('{"a":"\ud83d"}')).toThrow(ValidationError);
  });
});

describe('a plaintext', () => {
  it('is at most 64 KiB, counted in bytes', () => {
    for (const [unit, size] of [
      ['k', 1],
      ['ü', 2],
      ['🔑', 4],
    ] as const) {
      expect(() => assertPlaintext('plaintext', unit.repeat(maxPlaintextBytes / size))).not.toThrow();
      expect(() => assertPlaintext('plaintext', `${unit.repeat(maxPlaintextBytes / size)}k`)).toThrow(ValidationError);
    }
    expect(maxPlaintextBytes).toBe(64 * 1024);
    expect(() => normalizeValue('k'.repeat(64 * 1024 + 1))).toThrow(ValidationError);
    expect(normalizeValue('k'.repeat(64 * 1024))).toHaveLength(64 * 1024);
    expect(normalizeValue(` ${'k'.repeat(64 * 1024)}\n`)).toHaveLength(64 * 1024);
    expect(() => normalizeValue(`{}${' '.repeat(64 * 1024 - 1)}`)).toThrow(ValidationError);
  });

  it('is refused by the name of its field', () => {
    expect(() => assertPlaintext('plaintext', '\ud83d')).toThrow(/^plaintext must /);
    expect(() => assertPlaintext('context', 'k'.repeat(64 * 1024 + 1))).toThrow(/^context must /);
  });
});

describe('a mask', () => {
  it.each([
    ['', ''],
    ['abc', ''],
    ['abcd', 'd'],
    ['abcdefg', 'g'],
    ['abcdefgh', 'gh'],
    ['abcdefghijkl', 'jkl'],
    ['abcdefghijklmno', 'mno'],
    ['abcdefghijklmnop', 'mnop'],
    ['sample-provider-key-0001', '0001'],
    ['🔑'.repeat(8), '🔑🔑'],
  ])('of %j is eight bullets and %j', (value, shown) => {
    expect(maskValue(value)).toBe(bullets + shown);
  });

  it('never shows more than four characters, nor more than a quarter of the value, and always the end of it', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: 'binary', maxLength: 40 }), fc.string({ minLength: 10, maxLength: 200 })),
        (value) => {
          const mask = maskValue(value);
          expect(mask.startsWith(bullets)).toBe(true);
          const shown = mask.slice(bullets.length);
          expect(value.endsWith(shown)).toBe(true);
          expect(Array.from(shown).length).toBeLessThanOrEqual(4);
          expect(Array.from(shown).length * 4).toBeLessThanOrEqual(Array.from(value).length);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('has the same length for every value of 16 characters and more', () => {
    const lengths = [16, 17, 64, 4096].map((length) => maskValue('k'.repeat(length)).length);
    expect(new Set(lengths).size).toBe(1);
  });
});
