/** What may be stored as a provider key, and how much of it a list shows. */

import { ValidationError } from '../errors.ts';

export const maxPlaintextBytes = 65_536;
const printableAscii = /^[\x20-\x7e]+$/;
const bullets = '••••••••';
/** At most this share of a value is shown. */
const shownShare = 1 / 4;

/** Shown in place of a masked value if the row does not open. */
export const unreadableMask = '••••(decrypt error)';

/**
 * The value as it is to be stored: trimmed, or byte for byte if it is a JSON object such as a service-account file. Throws
 * ValidationError for a value that is neither a JSON object nor fit to be sent as an HTTP header.
 */
export function normalizeValue(value: string): string {
  const trimmed = value.trim();
  assertPlaintext('value', trimmed.startsWith('{') ? value : trimmed);
  if (isJsonObject(value)) return value;
  if (trimmed === '') throw new ValidationError('value must not be empty or white space alone.');
  if (!printableAscii.test(trimmed)) {
    throw new ValidationError('value must be printable ASCII, because it is sent as an HTTP header, or a JSON object.');
  }
  return trimmed;
}

/** Throws ValidationError if the text is over 64 KiB, or is not valid Unicode and would not survive a round trip. */
export function assertPlaintext(field: string, value: string): void {
  if (Buffer.byteLength(value, 'utf8') > maxPlaintextBytes) {
    throw new ValidationError(`${field} must be at most ${maxPlaintextBytes} bytes.`);
  }
  if (!value.isWellFormed()) throw new ValidationError(`${field} must be valid Unicode: it holds half of a surrogate pair.`);
}

/** Eight bullets and the last characters: four, or fewer if four would be more than a quarter of the value. */
export function maskValue(value: string): string {
  // The last 32 code units are enough to show four characters of a long value.
  const characters = Array.from(value.slice(-32));
  const shown = Math.min(4, Math.floor(characters.length * shownShare));
  return bullets + characters.slice(characters.length - shown).join('');
}

function isJsonObject(value: string): boolean {
  if (!/^\s*\{/.test(value)) return false;
  try {
    const parsed: unknown = JSON.parse(value);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
  } catch {
    return false;
  }
}
