/** Pages are continued by an opaque cursor, which is refused where it is not one of ours. */

import { ValidationError } from '../errors.ts';

export function encodeCursor(position: string | null): string {
  return Buffer.from(JSON.stringify([position]), 'utf8').toString('base64url');
}

/** Throws ValidationError. */
export function decodeCursor(cursor: string): string | null {
  try {
    const [position, ...rest]: unknown[] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (rest.length === 0 && (position === null || typeof position === 'string')) return position;
  } catch {
    // It is refused below, as any other that is not ours.
  }
  throw new ValidationError('cursor is not the next_cursor of an earlier answer.');
}
