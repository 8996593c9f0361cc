/** Pages are continued by an opaque cursor, which is refused where it is not one of ours. */

import { ValidationError } from '../errors.ts';

export function encodeCursor(position: string | null): string {
  return Buffer.from(JSON.stringify([position]), 'utf8').toString('base64url');
}

/** The position in the cursor that `field` holds, which is null or of the list's own form. Throws ValidationError. */
export function decodeCursor(cursor: string, form: RegExp, field = 'cursor'): string | null {
  try {
    const [position, ...rest]: unknown[] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (rest.length === 0 && (position === null || (typeof position === 'string' && form.test(position)))) return position;
  } catch {
    // It is refused below, as any other that is not ours.
  }
  throw new ValidationError(`${field} is not a cursor of an earlier answer of this list.`);
}
