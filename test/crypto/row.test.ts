/** Rows in both formats open with the right key and, in format 2, in their own place alone; whatever else they are given, they stay shut. */

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MasterKey, parseMasterKey } from '../../src/crypto/master-key.ts';
import { openRow, type RowBinding, type RowCiphertext, rowFormatOf, sealRow } from '../../src/crypto/row.ts';
import { gatewayOpen, gatewaySeal } from '../support/gateway.ts';

interface Columns {
  readonly encrypted_value: string;
  readonly iv: string;
  readonly auth_tag: string;
}

interface Vector {
  readonly comment: string;
  readonly master_key: string;
  readonly binding: { table: string; tenant_id: string | null; name: string; provider: string } | null;
  readonly row: Columns;
}

const vectors = readData('row-vectors') as {
  readonly master_keys: Readonly<Record<string, string>>;
  readonly opens: readonly (Vector & { readonly format: 1 | 2; readonly plaintext: string })[];
  readonly refused: readonly Vector[];
};
const legacy = readData('legacy-rows') as {
  readonly master_keys: Readonly<Record<string, string>>;
  readonly rows: readonly (Columns & { readonly master_key: string; readonly id: string; readonly plaintext: string })[];
};

const keyText = 'a1'.repeat(32);
const key = parseMasterKey(keyText);
const otherKey = parseMasterKey('b2'.repeat(32));
const sample: RowBinding = { table: 'api_keys', tenantId: 'tenant-a', name: 'OPENAI_API_KEY', provider: 'openai' };
const columns = ['encryptedValue', 'iv', 'authTag'] as const;
const fields = ['table', 'tenantId', 'name', 'provider'] as const;

const unicode = fc.string({ unit: 'binary', maxLength: 40 });
const anyBytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const anyBinding: fc.Arbitrary<RowBinding> = fc.record({
  table: unicode,
  tenantId: fc.option(unicode, { freq: 3 }),
  name: unicode,
  provider: unicode,
});
/** Fields so short and alike that two bindings often differ only in where one field ends and the next begins. */
const alike = fc.string({ unit: fc.constantFrom('a', '\u0000', '\u0001'), maxLength: 3 });
const anyAlikeBinding: fc.Arbitrary<RowBinding> = fc.record({
  table: alike,
  tenantId: fc.option(alike, { freq: 2 }),
  name: alike,
  provider: alike,
});

function readData(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`data/${name}.json`, import.meta.url), 'utf8'));
}

function fromColumns({ encrypted_value: encryptedValue, iv, auth_tag: authTag }: Columns): RowCiphertext {
  return { encryptedValue, iv, authTag };
}

function keyOf(masterKeys: Readonly<Record<string, string>>, name: string): MasterKey {
  const text = masterKeys[name];
  if (text === undefined) throw new Error(`The data names no master key ${name}.`);
  return parseMasterKey(text);
}

function bindingOf({ binding }: Vector): RowBinding | null {
  return binding && { table: binding.table, tenantId: binding.tenant_id, name: binding.name, provider: binding.provider };
}

function areEqual(left: RowBinding, right: RowBinding): boolean {
  return fields.every((field) => left[field] === right[field]);
}

function flipBit(hex: string, bit: number): string {
  const bytes = Buffer.from(hex, 'hex');
  bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return bytes.toString('hex');
}

/** Every text that differs from this one, of ASCII characters, in one bit. */
function bitNeighbours(text: string): string[] {
  const codes = Array.from(text, (character) => character.charCodeAt(0));
  return codes.flatMap((_, at) =>
    [0, 1, 2, 3, 4, 5, 6].map((bit) =>
      String.fromCharCode(...codes.map((code, index) => (index === at ? code ^ (1 << bit) : code))),
    ),
  );
}

describe('frozen vectors', () => {
  it.each(vectors.opens)('open in format $format: $comment', (vector) => {
    const row = fromColumns(vector.row);
    expect(rowFormatOf(row)).toBe(vector.format);
    expect(openRow(keyOf(vectors.master_keys, vector.master_key), bindingOf(vector), row)?.toString('hex')).toBe(
      vector.plaintext,
    );
  });

  it.each(vectors.refused)('stay shut: $comment', (vector) => {
    expect(openRow(keyOf(vectors.master_keys, vector.master_key), bindingOf(vector), fromColumns(vector.row))).toBeNull();
  });
});

describe('rows of the gateway', () => {
  it.each(legacy.rows)('open byte for byte: $id', (row) => {
    expect(rowFormatOf(fromColumns(row))).toBe(1);
    expect(openRow(keyOf(legacy.master_keys, row.master_key), null, fromColumns(row))).toEqual(
      Buffer.from(row.plaintext, 'utf8'),
    );
  });

  it('open here and rows in format 1 open there, whatever the value', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (value) => {
        expect(openRow(key, null, fromColumns(gatewaySeal(keyText, value)))?.toString('utf8')).toBe(value);
        const { encryptedValue, iv, authTag } = sealRow(key, null, Buffer.from(value, 'utf8'));
        expect(gatewayOpen(keyText, { encrypted_value: encryptedValue, iv, auth_tag: authTag })).toBe(value);
      }),
      { numRuns: 50 },
    );
  });
});

describe('a sealed row', () => {
  it('opens to the same bytes, whatever they are and whatever it is bound to', () => {
    fc.assert(
      fc.property(anyBytes, fc.option(anyBinding), (plaintext, binding) => {
        const row = sealRow(key, binding, plaintext);
        expect(rowFormatOf(row)).toBe(binding === null ? 1 : 2);
        expect(openRow(key, binding, row)).toEqual(plaintext);
      }),
    );
  });

  it('is lowercase hexadecimal with an IV of 16 bytes in format 1 and of 12 in format 2', () => {
    for (const [binding, ivLength] of [
      [null, 16],
      [sample, 12],
    ] as const) {
      const { encryptedValue, iv, authTag } = sealRow(key, binding, Buffer.from('sample'));
      expect(iv).toMatch(new RegExp(`^[0-9a-f]{${ivLength * 2}}$`));
      expect(encryptedValue).toMatch(/^[0-9a-f]{12}$/);
      expect(authTag).toMatch(/^[0-9a-f]{32}$/);
    }
  });

  it('has an IV of full length, however many were sealed before', () => {
    const rows = Array.from({ length: 1_000 }, (_, index) =>
      sealRow(key, index % 3 === 0 ? null : sample, Buffer.from('sample')),
    );
    expect(rows.map(({ iv }) => iv.length)).toEqual(rows.map((_, index) => (index % 3 === 0 ? 32 : 24)));
  });

  it('never repeats an IV or a ciphertext', () => {
    for (const binding of [null, sample]) {
      const rows = Array.from({ length: 100 }, () => sealRow(key, binding, Buffer.from('sample-value-0001')));
      for (const column of columns) expect(new Set(rows.map((row) => row[column])).size).toBe(rows.length);
    }
  });

  it('does not open with another key', () => {
    fc.assert(
      fc.property(anyBytes, fc.option(anyBinding), (plaintext, binding) => {
        expect(openRow(otherKey, binding, sealRow(key, binding, plaintext))).toBeNull();
      }),
    );
  });

  it.each([null, sample])('does not open once any one bit of any column is changed (bound to %j)', (binding) => {
    const row = sealRow(key, binding, Buffer.from('sample-value-0001'));
    for (const column of columns) {
      for (let bit = 0; bit < row[column].length * 4; bit += 1) {
        expect(openRow(key, binding, { ...row, [column]: flipBit(row[column], bit) }), `${column}, bit ${bit}`).toBeNull();
      }
    }
  });

  it.each([null, sample])('does not open with a column of another row sealed alike (bound to %j)', (binding) => {
    const row = sealRow(key, binding, Buffer.from('sample-value-0001'));
    const other = sealRow(key, binding, Buffer.from('sample-value-0001'));
    for (const column of columns) expect(openRow(key, binding, { ...row, [column]: other[column] }), column).toBeNull();
  });

  it.each([null, sample])('does not open with a tag cut to 4 to 15 bytes (bound to %j)', (binding) => {
    const row = sealRow(key, binding, Buffer.from('sample-value-0001'));
    for (let length = 4; length < 16; length += 1) {
      const truncated = { ...row, authTag: row.authTag.slice(0, length * 2) };
      expect(rowFormatOf(truncated), `${length} bytes`).toBeNull();
      expect(openRow(key, binding, truncated), `${length} bytes`).toBeNull();
    }
  });
});

describe('a row in format 2', () => {
  it('does not open once any one bit of any text it is bound to is changed', () => {
    const row = sealRow(key, sample, Buffer.from('sample-value-0001'));
    for (const field of fields) {
      for (const changed of bitNeighbours(sample[field] ?? '')) {
        expect(openRow(key, { ...sample, [field]: changed }, row), `${field} ${JSON.stringify(changed)}`).toBeNull();
      }
    }
  });

  it('does not open once any one bit of the key id it is bound to is changed', () => {
    const row = sealRow(key, sample, Buffer.from('sample-value-0001'));
    expect(openRow({ ...key }, sample, row)).not.toBeNull();
    for (const id of bitNeighbours(key.id)) expect(openRow({ ...key, id }, sample, row), id).toBeNull();
  });

  it.each([
    ['any', anyBinding],
    ['nearly the same', anyAlikeBinding],
  ])('does not open in another table, tenant, name or provider (%s)', (_, arbitrary) => {
    fc.assert(
      fc.property(arbitrary, arbitrary, (binding, other) => {
        fc.pre(!areEqual(binding, other));
        expect(openRow(key, other, sealRow(key, binding, Buffer.from('sample-value-0001')))).toBeNull();
      }),
      { numRuns: 200 },
    );
  });

  it('does not open with one field alone taken from another row', () => {
    fc.assert(
      fc.property(anyBinding, anyBinding, fc.constantFrom(...fields), (binding, other, field) => {
        fc.pre(binding[field] !== other[field]);
        const row = sealRow(key, binding, Buffer.from('sample-value-0001'));
        expect(openRow(key, { ...binding, [field]: other[field] }, row)).toBeNull();
      }),
    );
  });

  it('tells the null tenant from the empty one', () => {
    fc.assert(
      fc.property(anyBinding, anyBytes, (binding, plaintext) => {
        const ofNull = { ...binding, tenantId: null };
        const ofEmpty = { ...binding, tenantId: '' };
        expect(openRow(key, ofEmpty, sealRow(key, ofNull, plaintext))).toBeNull();
        expect(openRow(key, ofNull, sealRow(key, ofEmpty, plaintext))).toBeNull();
      }),
      { numRuns: 50 },
    );
  });

  it('does not open without what it is bound to', () => {
    fc.assert(
      fc.property(anyBinding, anyBytes, (binding, plaintext) => {
        expect(openRow(key, null, sealRow(key, binding, plaintext))).toBeNull();
      }),
      { numRuns: 50 },
    );
  });

  it('cannot be passed off as format 1, nor a row in format 1 as format 2, by another length of the IV', () => {
    const bound = sealRow(key, sample, Buffer.from('sample-value-0001'));
    const unbound = sealRow(key, null, Buffer.from('sample-value-0001'));
    expect(openRow(key, sample, { ...bound, iv: bound.iv.padEnd(32, '0') })).toBeNull();
    expect(openRow(key, sample, { ...unbound, iv: unbound.iv.slice(0, 24) })).toBeNull();
  });
});

describe('a row in format 1', () => {
  it('opens wherever it stands, because it is bound to nothing', () => {
    fc.assert(
      fc.property(anyBinding, anyBytes, (binding, plaintext) => {
        expect(openRow(key, binding, sealRow(key, null, plaintext))).toEqual(plaintext);
      }),
      { numRuns: 50 },
    );
  });
});

/** Node decodes this as it does the text itself. */
function widened(text: string): string {
  return [...text].map((character) => String.fromCharCode(0x4e00 + character.charCodeAt(0))).join('');
}

describe('columns that are no ciphertext', () => {
  const row = sealRow(key, sample, Buffer.from('sample-value-0001'));
  const legacyRow = sealRow(key, null, Buffer.from('sample-value-0001'));

  it.each([
    ['a tag of an odd length', { ...row, authTag: row.authTag.slice(1) }],
    ['a tag too long', { ...row, authTag: `${row.authTag}00` }],
    ['an empty tag', { ...row, authTag: '' }],
    ['a tag that is not hexadecimal', { ...row, authTag: `zz${row.authTag.slice(2)}` }],
    ['an empty IV', { ...row, iv: '' }],
    ['an IV of an odd length', { ...row, iv: row.iv.slice(1) }],
    ['an IV of 11 bytes', { ...row, iv: row.iv.slice(2) }],
    ['an IV of 13 bytes', { ...row, iv: `${row.iv}00` }],
    ['an IV of 17 bytes', { ...legacyRow, iv: `${legacyRow.iv}00` }],
    ['an IV that is not hexadecimal', { ...row, iv: `0x${row.iv.slice(2)}` }],
    ['a ciphertext of an odd length', { ...row, encryptedValue: `${row.encryptedValue}0` }],
    ['a ciphertext that is not hexadecimal', { ...row, encryptedValue: `${row.encryptedValue}zz` }],
    ['a ciphertext with a newline after it', { ...row, encryptedValue: `${row.encryptedValue}\n` }],
    [
      'a ciphertext with white space inside',
      { ...row, encryptedValue: `${row.encryptedValue.slice(0, 4)}  ${row.encryptedValue.slice(4)}` },
    ],
    ['characters that look hexadecimal', { ...row, encryptedValue: '０１' }],
    ['a ciphertext of characters whose low bytes are hexadecimal', { ...row, encryptedValue: widened(row.encryptedValue) }],
    ['an IV of such', { ...row, iv: widened(row.iv) }],
    ['a tag of such', { ...row, authTag: widened(row.authTag) }],
  ])('have no format and do not open: %s', (_, malformed) => {
    expect(rowFormatOf(malformed)).toBeNull();
    expect(openRow(key, sample, malformed)).toBeNull();
  });

  it('do not open and do not throw, whatever text they are', () => {
    const anyColumn = fc.oneof(unicode, fc.string({ unit: fc.constantFrom(...'0123456789abcdefABCDEF'), maxLength: 40 }));
    const anyIv = fc.oneof(anyColumn, fc.constantFrom(row.iv, legacyRow.iv));
    const anyTag = fc.oneof(anyColumn, fc.constantFrom(row.authTag, legacyRow.authTag));
    fc.assert(
      fc.property(anyColumn, anyIv, anyTag, fc.option(anyBinding), (encryptedValue, iv, authTag, binding) => {
        expect(openRow(key, binding, { encryptedValue, iv, authTag })).toBeNull();
      }),
      { numRuns: 300 },
    );
  });
});
