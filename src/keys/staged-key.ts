/** Which key a rotation goes to where nobody names one. */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import type { MasterKeyRecord } from '../store/master-keys.ts';

/**
 * One that never was active: `PROVARA_MASTER_KEY_NEW`, otherwise a `PROVARA_MASTER_KEY` that was swapped before the rotation; null where
 * there is none. With `PROVARA_MASTER_KEY_NEW` active, another `PROVARA_MASTER_KEY` is taken for the old key of a table that some other
 * tool has rotated: to rotate back to that, unasked, would be worse than to repeat a rotation.
 */
export function stagedKey(keyring: Keyring, known: readonly MasterKeyRecord[]): MasterKey | null {
  const next = keyring.givenAs('PROVARA_MASTER_KEY_NEW');
  const primary = keyring.givenAs('PROVARA_MASTER_KEY');
  if (known.some(({ keyId, isActive }) => isActive && keyId === next?.id)) return null;
  return [next, primary].find((key) => key !== undefined && !wasActive(known, key.id)) ?? null;
}

export function wasActive(known: readonly MasterKeyRecord[], keyId: string): boolean {
  return known.some((record) => record.keyId === keyId && record.activatedAt !== null);
}
