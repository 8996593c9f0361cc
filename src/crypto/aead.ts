/**
 * AES-256-GCM with a 16-byte tag and nothing else: a short tag, a changed bit and a wrong key all look the same to the caller.
 */

import { createCipheriv, createDecipheriv, type KeyObject, randomBytes } from 'node:crypto';

const algorithm = 'aes-256-gcm';
/** NIST SP 800-38D allows shorter tags, and Node accepts them unless this length is passed. */
export const tagLength = 16;

export interface Sealed {
  readonly iv: Buffer;
  readonly ciphertext: Buffer;
  readonly tag: Buffer;
}

/** Encrypts under an IV that the caller must never have used with this key. */
export function seal(key: KeyObject, iv: Buffer, plaintext: Buffer, associatedData: Buffer | null): Sealed {
  const cipher = createCipheriv(algorithm, key, iv, { authTagLength: tagLength });
  if (associatedData !== null) cipher.setAAD(associatedData);
  const ciphertext = cipher.update(plaintext);
  // GCM buffers nothing: this returns no bytes, and computes the tag.
  cipher.final();
  return { iv, ciphertext, tag: cipher.getAuthTag() };
}

/** The plaintext, or null for any failure. */
export function open(key: KeyObject, sealed: Sealed, associatedData: Buffer | null): Buffer | null {
  if (sealed.tag.length !== tagLength || sealed.iv.length === 0) return null;
  const decipher = createDecipheriv(algorithm, key, sealed.iv, { authTagLength: tagLength });
  decipher.setAuthTag(sealed.tag);
  if (associatedData !== null) decipher.setAAD(associatedData);
  const plaintext = decipher.update(sealed.ciphertext);
  try {
    decipher.final();
    return plaintext;
  } catch {
    plaintext.fill(0);
    return null;
  }
}

/** Random bytes drawn from the system at once, because each call costs more than the bytes. */
const drawnBytes = 8_192;
let drawn = Buffer.alloc(0);

/** A random IV, handed out once. */
export function freshIv(length: number): Buffer {
  if (drawn.length < length) drawn = randomBytes(drawnBytes);
  const iv = drawn.subarray(0, length);
  drawn = drawn.subarray(length);
  return iv;
}

/**
 * Joins fields so that no two different lists give the same bytes: the label, then for each field one byte 0 for null, or one
 * byte 1, the length in bytes as 32-bit big-endian, and the UTF-8 bytes. No label of this project is a prefix of another.
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
