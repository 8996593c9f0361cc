/** The pv1 text form opens with its key and context alone, has one spelling, and is never a row, as a row is never it. */

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { openRow, type RowBinding, sealRow } from '../../src/crypto/row.ts';
import { openText, parseText, sealText, type TextCiphertext } from '../../src/crypto/text-ciphertext.ts';

interface Vector {
  readonly comment: string;
  readonly master_key: string;
  readonly context: string | null;
  readonly text: string;
}

const vectors = JSON.parse(readFileSync(new URL('data/text-vectors.json', import.meta.url), 'utf8')) as {
  readonly master_keys: Readonly<Record<string, string>>;
  readonly opens: readonly (Vector & { readonly plaintext: string })[];
  readonly does_not_open: readonly Vector[];
  readonly does_not_parse: readonly Pick<Vector, 'comment' | 'text'>[];
};

const key = parseMasterKey('a1'.repeat(32));
const otherKey = parseMasterKey('b2'.repeat(32));
const plaintext = Buffer.from('sample-value-0001');

const unicode = fc.string({ unit: 'binary', maxLength: 40 });
const anyBytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const anyContext = fc.option(unicode, { freq: 3 });
const anyBinding: fc.Arbitrary<RowBinding> = fc.record({
  table: unicode,
  tenantId: fc.option(unicode, { freq: 3 }),
  name: unicode,
  provider: unicode,
});

function parsed(text: string): TextCiphertext {
  const ciphertext = parseText(text);
  if (ciphertext === null) throw new Error('The text does not parse.');
  return ciphertext;
}

function keyOf({ master_key: name }: Vector) {
  const text = vectors.master_keys[name];
  if (text === undefined) throw new Error(`The data names no master key ${name}.`);
  return parseMasterKey(text);
}

function flipBit(bytes: Buffer, bit: number): Buffer {
  const flipped = Buffer.from(bytes);
  flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return flipped;
}

describe('frozen vectors', () => {
  it.each(vectors.opens)('open, and name their key: $comment', (vector) => {
    const ciphertext = parsed(vector.text);
    expect(ciphertext.keyId).toBe(keyOf(vector).id);
    expect(openText(keyOf(vector), ciphertext, vector.context)?.toString('hex')).toBe(vector.plaintext);
  });

  it.each(vectors.does_not_open)('parse and stay shut: $comment', (vector) => {
    expect(openText(keyOf(vector), parsed(vector.text), vector.context)).toBeNull();
  });

  it.each(vectors.does_not_parse)('do not parse: $comment', ({ text }) => {
    expect(parseText(text)).toBeNull();
  });
});

describe('a sealed text', () => {
  it('opens to the same bytes, whatever they are and whatever the context', () => {
    fc.assert(
      fc.property(anyBytes, anyContext, (bytes, context) => {
        const ciphertext = parsed(sealText(key, bytes, context));
        expect(ciphertext.keyId).toBe(key.id);
        expect(openText(key, ciphertext, context)).toEqual(bytes);
      }),
    );
  });

  it('is never the same twice', () => {
    const texts = Array.from({ length: 100 }, () => sealText(key, plaintext, null));
    const ivs = texts.map((text) => parsed(text).payload.subarray(0, 12).toString('hex'));
    expect(new Set(ivs).size).toBe(texts.length);
  });

  it('does not open with another context, and tells none from the empty one', () => {
    fc.assert(
      fc.property(anyContext, anyContext, (context, other) => {
        fc.pre(context !== other);
        expect(openText(key, parsed(sealText(key, plaintext, context)), other)).toBeNull();
      }),
    );
    expect(openText(key, parsed(sealText(key, plaintext, null)), '')).toBeNull();
    expect(openText(key, parsed(sealText(key, plaintext, '')), null)).toBeNull();
  });

  it('does not open with another key', () => {
    fc.assert(
      fc.property(anyBytes, anyContext, (bytes, context) => {
        expect(openText(otherKey, parsed(sealText(key, bytes, context)), context)).toBeNull();
      }),
      { numRuns: 50 },
    );
  });

  it('does not open once any one bit of its IV, ciphertext or tag is changed', () => {
    const ciphertext = parsed(sealText(key, plaintext, 'sample'));
    for (let bit = 0; bit < ciphertext.payload.length * 8; bit += 1) {
      const changed = { ...ciphertext, payload: flipBit(ciphertext.payload, bit) };
      expect(openText(key, changed, 'sample'), `bit ${bit}`).toBeNull();
    }
  });

  it('names another key once any one bit of its key id is changed, or no longer parses', () => {
    const text = sealText(key, plaintext, null);
    for (let at = 4; at < 20; at += 1) {
      for (let bit = 0; bit < 7; bit += 1) {
        const changed = text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ (1 << bit)) + text.slice(at + 1);
        expect(parseText(changed)?.keyId, changed).not.toBe(key.id);
      }
    }
  });

  it('does not open with its tag cut, whatever is left of it', () => {
    const { keyId, payload } = parsed(sealText(key, plaintext, null));
    for (let missing = 1; missing <= payload.length; missing += 1) {
      const truncated = { keyId, payload: payload.subarray(0, -missing) };
      expect(openText(key, truncated, null), `${missing} bytes missing`).toBeNull();
    }
  });
});

describe('the text', () => {
  it('has one spelling: any other that parses is another ciphertext', () => {
    fc.assert(
      fc.property(anyBytes, (bytes) => {
        const text = sealText(key, bytes, null);
        const { keyId, payload } = parsed(text);
        expect(`pv1.${keyId}.${payload.toString('base64url')}`).toBe(text);
        for (const other of [`${text}=`, `${text}\n`, ` ${text}`, text.toUpperCase(), `${text}.`, text.replace('.', '..')]) {
          expect(parseText(other), other).toBeNull();
        }
      }),
      { numRuns: 50 },
    );
  });

  it('never parses with spare bits that are not zero', () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    for (const [bytes, spareBits] of [
      ['', 4],
      ['k', 2],
      ['ke', 0],
    ] as const) {
      const text = sealText(key, Buffer.from(bytes), null);
      const spellings = Array.from(alphabet, (last) => text.slice(0, -1) + last).filter(
        (spelling) => parseText(spelling) !== null,
      );
      expect(spellings).toHaveLength(64 >> spareBits);
      expect(spellings).toContain(text);
    }
  });

  it('is parsed to what spells it or to nothing, and never throws', () => {
    const nearlyBase64url = fc.string({ unit: fc.constantFrom('A', 'Q', 'g', 'w', '1', '-', '_'), minLength: 38, maxLength: 44 });
    const anyText = fc.oneof(
      unicode,
      nearlyBase64url.map((encoded) => `pv1.${key.id}.${encoded}`),
    );
    fc.assert(
      fc.property(anyText, (text) => {
        const ciphertext = parseText(text);
        const spelled = ciphertext && `pv1.${ciphertext.keyId}.${ciphertext.payload.toString('base64url')}`;
        expect([text, null]).toContain(spelled);
      }),
      { numRuns: 500 },
    );
  });
});

describe('a row and a text', () => {
  it('never pass for each other: a text does not open as a row, whatever its context and the place it is put in', () => {
    fc.assert(
      fc.property(anyBytes, anyContext, fc.option(anyBinding), fc.constantFrom(12, 16), (bytes, context, binding, ivLength) => {
        const payload = parsed(sealText(key, bytes, context)).payload.toString('hex');
        const row = {
          iv: payload.slice(0, ivLength * 2),
          encryptedValue: payload.slice(ivLength * 2, -32),
          authTag: payload.slice(-32),
        };
        expect(openRow(key, binding, row)).toBeNull();
      }),
    );
  });

  it('never pass for each other: a row does not open as a text, whatever the context', () => {
    fc.assert(
      fc.property(anyBytes, fc.option(anyBinding), anyContext, (bytes, binding, context) => {
        const { iv, encryptedValue, authTag } = sealRow(key, binding, bytes);
        const payload = Buffer.from(iv + encryptedValue + authTag, 'hex');
        expect(openText(key, parsed(`pv1.${key.id}.${payload.toString('base64url')}`), context)).toBeNull();
      }),
    );
  });

  it('never pass for each other with a context that spells out the associated data of a row', () => {
    const binding: RowBinding = { table: 'api_keys', tenantId: null, name: 'OPENAI_API_KEY', provider: 'openai' };
    const encoded = ['api_keys', null, 'OPENAI_API_KEY', 'openai', key.id].map((field) =>
      field === null ? '\u0000' : `\u0001\u0000\u0000\u0000${String.fromCharCode(field.length)}${field}`,
    );
    for (const context of [encoded.join(''), `provara-vault/row/2${encoded.join('')}`, `/row/2${encoded.join('')}`]) {
      const payload = parsed(sealText(key, plaintext, context)).payload.toString('hex');
      const row = { iv: payload.slice(0, 24), encryptedValue: payload.slice(24, -32), authTag: payload.slice(-32) };
      expect(openRow(key, binding, row)).toBeNull();
      const { iv, encryptedValue, authTag } = sealRow(key, binding, plaintext);
      expect(openText(key, { keyId: key.id, payload: Buffer.from(iv + encryptedValue + authTag, 'hex') }, context)).toBeNull();
    }
  });
});
