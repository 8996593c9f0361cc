/** The key that seals: named by the database, held by the keyring. */

import type { Keyring } from '../crypto/keyring.ts';
import { labelOfKey, type MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError } from '../errors.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';

/** For so long a remembered key id is used to seal. A store is conditional on it, so that age costs a retry, never a wrong row. */
const maxAgeMs = 100;

export class ActiveKey {
  readonly #store: MasterKeyStore;
  readonly #keyring: Keyring;
  /** Asked once for all who want it at a time. `untilMs`: by `performance.now()`. */
  #read: { readonly keyId: Promise<string | null>; untilMs: number } | null = null;

  constructor(store: MasterKeyStore, keyring: Keyring) {
    this.#store = store;
    this.#keyring = keyring;
  }

  /** Null on a table for which none has been found. */
  id(): Promise<string | null> {
    if (this.#read === null || performance.now() > this.#read.untilMs) this.#read = this.#begin();
    return this.#read.keyId;
  }

  #begin() {
    const read = { keyId: this.#store.activeKeyId(), untilMs: Number.POSITIVE_INFINITY };
    read.keyId.then(
      () => {
        read.untilMs = performance.now() + maxAgeMs;
      },
      () => {
        read.untilMs = 0;
      },
    );
    return read;
  }

  /** Throws ConfigurationError where the keyring does not hold the active key. */
  async sealingKey(): Promise<MasterKey> {
    const keyId = await this.id();
    if (keyId === null) throw new ConfigurationError('No key of the keyring opens a row: check PROVARA_MASTER_KEY.');
    const key = this.#keyring.get(keyId);
    if (key === undefined) throw missingKeyError(await this.#store.all(), keyId);
    return key;
  }

  /** Forgets what was read, so that the next use asks the database. */
  forget(): void {
    this.#read = null;
  }

  /**
   * Throws ConfigurationError where a ciphertext may be fine and only its key missing: a key that this database knows,
   * named by the ciphertext, or the active key where it names none. Returns otherwise.
   */
  async assertKeyPresent(namedKeyId: string | null): Promise<void> {
    const keyId = namedKeyId ?? (await this.id());
    if (keyId === null || this.#keyring.get(keyId) !== undefined) return;
    const known = await this.#store.all();
    if (known.some((record) => record.keyId === keyId)) throw missingKeyError(known, keyId);
  }
}

/** What messages call a key that the keyring may lack. */
export function nameOfKey(known: readonly MasterKeyRecord[], keyId: string): string {
  return labelOfKey(
    keyId,
    known.some((record) => record.keyId === keyId && record.isPassphrase),
  );
}

export function missingKeyError(known: readonly MasterKeyRecord[], keyId: string): ConfigurationError {
  return new ConfigurationError(
    `The master key ${nameOfKey(known, keyId)} is not in the keyring. Add it as PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW or PROVARA_MASTER_KEY_OLD.`,
  );
}
