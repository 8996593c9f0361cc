/** The key that seals: named by the database, held by the keyring. */

import type { Keyring } from '../crypto/keyring.ts';
import { labelOfKey, type MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError, DecryptFailedError } from '../errors.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';

/** For so long what has been read is used. A store is conditional on it, so that age costs a retry, never a wrong row. */
const maxAgeMs = 100;

export class ActiveKey {
  readonly #keyring: Keyring;
  readonly #id: Remembered<string | null>;
  readonly #known: Remembered<readonly MasterKeyRecord[]>;

  constructor(store: MasterKeyStore, keyring: Keyring) {
    this.#keyring = keyring;
    this.#id = new Remembered(() => store.activeKeyId());
    this.#known = new Remembered(() => store.all());
  }

  /** Null on a table for which none has been found. */
  id(): Promise<string | null> {
    return this.#id.get();
  }

  /** Throws ConfigurationError where the keyring does not hold the active key. */
  async sealingKey(): Promise<MasterKey> {
    const keyId = await this.id();
    if (keyId === null) throw new ConfigurationError('No key of the keyring opens a row: check PROVARA_MASTER_KEY.');
    const key = this.#keyring.get(keyId);
    if (key === undefined) throw missingKeyError(await this.#known.get(), keyId);
    return key;
  }

  /** Forgets what was read, so that the next use asks the database. */
  forget(): void {
    this.#id.forget();
  }

  /**
   * ConfigurationError where a ciphertext that does not open may be fine and only its key missing: a key that this database knows,
   * named by the ciphertext, or the active key where it names none. Anything else is one error.
   */
  async whyUnopened(namedKeyId: string | null): Promise<ConfigurationError | DecryptFailedError> {
    const keyId = namedKeyId ?? (await this.id());
    if (keyId === null || this.#keyring.get(keyId) !== undefined) return new DecryptFailedError();
    const known = await this.#known.get();
    return known.some((record) => record.keyId === keyId) ? missingKeyError(known, keyId) : new DecryptFailedError();
  }
}

/** Read once for all who want it at a time, and kept for {@link maxAgeMs}. */
class Remembered<Value> {
  readonly #read: () => Promise<Value>;
  /** `untilMs`: by `performance.now()`. */
  #last: { readonly value: Promise<Value>; untilMs: number } | null = null;

  constructor(read: () => Promise<Value>) {
    this.#read = read;
  }

  get(): Promise<Value> {
    if (this.#last === null || performance.now() > this.#last.untilMs) this.#last = this.#begin();
    return this.#last.value;
  }

  forget(): void {
    this.#last = null;
  }

  #begin() {
    const begun = { value: this.#read(), untilMs: Number.POSITIVE_INFINITY };
    begun.value.then(
      () => {
        begun.untilMs = performance.now() + maxAgeMs;
      },
      () => {
        begun.untilMs = 0;
      },
    );
    return begun;
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
