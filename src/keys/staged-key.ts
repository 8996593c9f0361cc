/** Chooses the key that a rotation goes to if the caller names none. */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import type { MasterKeyRecord } from '../store/master-keys.ts';

/**
 * A key that never was active: `PROVARA_MASTER_KEY_NEW`, or otherwise a `PROVARA_MASTER_KEY` that was replaced before the
 * rotation; null if there is neither. While `PROVARA_MASTER_KEY_NEW` is active, a different `PROVARA_MASTER_KEY` is taken for the
 * old key of a table that another tool has rotated: rotating back to it unasked would be worse than repeating a rotation.
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
