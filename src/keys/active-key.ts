/** The key that seals: named by the database, held by the keyring. */

import type { Keyring } from '../crypto/keyring.ts';
import { labelOfKey, type MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError, DecryptFailedError } from '../errors.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';

/** How long a value read is used. A store is conditional on it, so a stale value costs a retry, never a wrong row. */
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

  /** Null in a database for which no active key has been found. */
  id(): Promise<string | null> {
    return this.#id.get();
  }

  /** Throws ConfigurationError if the active key is not in the keyring. */
  async sealingKey(): Promise<MasterKey> {
    const keyId = await this.id();
    if (keyId === null) throw new ConfigurationError('No key of the keyring opens a row: check PROVARA_MASTER_KEY.');
    const key = this.#keyring.get(keyId);
    if (key === undefined) throw missingKeyError(await this.#known.get(), keyId);
    return key;
  }

  /** Drops the remembered value, so that the next use asks the database. */
  forget(): void {
    this.#id.forget();
  }

  /**
   * ConfigurationError if the ciphertext may be fine and only its key is missing: a key that this database knows, which is the
   * one named by the ciphertext, or the active key if it names none. Otherwise the one opaque DecryptFailedError.
   */
  async whyUnopened(namedKeyId: string | null): Promise<ConfigurationError | DecryptFailedError> {
    const keyId = namedKeyId ?? (await this.id());
    if (keyId === null || this.#keyring.get(keyId) !== undefined) return new DecryptFailedError();
    const known = await this.#known.get();
    return known.some((record) => record.keyId === keyId) ? missingKeyError(known, keyId) : new DecryptFailedError();
  }
}

/** Reads once for all concurrent callers, and keeps the value for {@link maxAgeMs}. */
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

/** The name in messages of a key that may not be in the keyring. */
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
