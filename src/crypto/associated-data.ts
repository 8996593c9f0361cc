/** Joins fields into associated data so that no two lists of fields give the same bytes. */

/**
 * The label, then per field: one byte 0 for null, or one byte 1, the length in bytes as 32-bit big-endian, and the UTF-8 bytes.
 * No label of this project is a prefix of another.
 */
export function associatedData(label: string, fields: readonly (string | null)[]): Buffer {
  return Buffer.concat([Buffer.from(label, 'utf8'), ...fields.map(encodeField)]);
}

function encodeField(field: string | null): Buffer {
  if (field === null) return Buffer.of(0);
  const length = Buffer.byteLength(field, 'utf8');
  const encoded = Buffer.allocUnsafe(5 + length);
  encoded.writeUInt8(1, 0);
  encoded.writeUInt32BE(length, 1);
  encoded.write(field, 5, 'utf8');
  return encoded;
}
