/**
 * Chooses the master key whose subkey signs audit records: the active one, unless that is a passphrase and another key is not.
 */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError } from '../errors.ts';

export class AuditKeys {
  readonly #keyring: Keyring;
  readonly #readActiveKeyId: () => Promise<string | null>;
  #activeKeyId: string | null = null;

  constructor(keyring: Keyring, readActiveKeyId: () => Promise<string | null>) {
    this.#keyring = keyring;
    this.#readActiveKeyId = readActiveKeyId;
  }

  /** Asks the database which key is active; if it does not answer, the last answer stands. */
  async refresh(): Promise<void> {
    this.#activeKeyId = await this.#readActiveKeyId().catch(() => this.#activeKeyId);
  }

  /** Undefined if the key is not in the keyring. */
  find(keyId: string): MasterKey | undefined {
    return this.#keyring.get(keyId);
  }

  /** Throws ConfigurationError if the keyring is empty. */
  get current(): MasterKey {
    const keys = this.#keyring.entries.map(({ key }) => key);
    const active = keys.find(({ id }) => id === this.#activeKeyId);
    // A signature lets any reader of a record test guesses of a passphrase.
    const chosen =
      active?.isPassphrase === false ? active : (keys.find(({ isPassphrase }) => !isPassphrase) ?? active ?? keys[0]);
    if (chosen === undefined) throw new ConfigurationError('Without a master key nothing can be put on record.');
    return chosen;
  }
}
