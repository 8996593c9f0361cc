/** Pages are continued by opaque cursors; a cursor that the vault did not make is refused. */

import { ValidationError } from '../errors.ts';

export function encodeCursor(position: string | null): string {
  return Buffer.from(JSON.stringify([position]), 'utf8').toString('base64url');
}

/**
 * The position in the cursor, which is null or matches `form`. `field` names the parameter that holds it. Throws ValidationError.
 */
export function decodeCursor(cursor: string, form: RegExp, field = 'cursor'): string | null {
  try {
    const [position, ...rest]: unknown[] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (rest.length === 0 && (position === null || (typeof position === 'string' && form.test(position)))) return position;
  } catch {
    // Refused below, like any other invalid cursor.
  }
  throw new ValidationError(`${field} is not a cursor of an earlier answer of this list.`);
}
