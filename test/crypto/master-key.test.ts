/** A master key is read as the gateway reads it, is named by its key id, and shows itself nowhere. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { generateMasterKeyText, parseMasterKey } from '../../src/crypto/master-key.ts';

const vectors = JSON.parse(readFileSync(new URL('data/master-keys.json', import.meta.url), 'utf8')) as {
  readonly keys: readonly {
    readonly comment: string;
    readonly master_key: string;
    readonly is_passphrase: boolean;
    readonly bytes: string;
    readonly key_id: string;
  }[];
};

describe('a master key', () => {
  it.each(vectors.keys)('has the bytes and the key id of its definition: $comment', (vector) => {
    const key = parseMasterKey(vector.master_key);
    expect(key.secret.export().toString('hex')).toBe(vector.bytes);
    expect(key.id).toBe(vector.key_id);
    expect(key.isPassphrase).toBe(vector.is_passphrase);
  });

  it('is the SHA-256 of its text, byte for byte, whatever text it is given as but 64 hexadecimal characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const digest = createHash('sha256').update(text, 'utf8').digest();
        const key = parseMasterKey(text);
        expect(key.isPassphrase).toBe(true);
        expect(key.secret.export()).toEqual(digest);
        expect(key.id).toBe(parseMasterKey(digest.toString('hex')).id);
      }),
    );
  });

  it('is not shown when it is printed or turned into JSON', () => {
    const text = 'a1'.repeat(32);
    const key = parseMasterKey(text);
    const printed = inspect(key, { depth: null, showHidden: true }) + JSON.stringify(key);
    expect(printed).toContain(key.id);
    expect(printed).not.toContain(text.slice(0, 16));
    expect(printed).not.toContain(Buffer.from(text, 'hex').toString('base64').slice(0, 16));
    expect(printed).not.toMatch(/a1,? ?a1/);
    expect(printed).not.toContain('161, 161');
  });
});

describe('a generated master key', () => {
  it('is 64 lowercase hexadecimal characters and never the same twice', () => {
    const generated = Array.from({ length: 50 }, generateMasterKeyText);
    for (const text of generated) {
      expect(text).toMatch(/^[0-9a-f]{64}$/);
      expect(parseMasterKey(text).isPassphrase).toBe(false);
    }
    expect(new Set(generated).size).toBe(generated.length);
  });
});
