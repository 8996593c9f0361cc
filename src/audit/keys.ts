/** Chooses the master key whose subkey signs audit records: the active one, unless that is a passphrase and another is not. */

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

  /** Asks the database which key is active; where it does not answer, the last answer stands. */
  async refresh(): Promise<void> {
    this.#activeKeyId = await this.#readActiveKeyId().catch(() => this.#activeKeyId);
  }

  /** Undefined where the keyring does not hold it. */
  find(keyId: string): MasterKey | undefined {
    return this.#keyring.get(keyId);
  }

  /** Throws ConfigurationError where the keyring is empty. */
  get current(): MasterKey {
    const keys = this.#keyring.entries.map(({ key }) => key);
    const active = keys.find(({ id }) => id === this.#activeKeyId);
    // Whoever reads a record could try passphrases against its signature.
    const chosen =
      active?.isPassphrase === false ? active : (keys.find(({ isPassphrase }) => !isPassphrase) ?? active ?? keys[0]);
    if (chosen === undefined) throw new ConfigurationError('Without a master key nothing can be put on record.');
    return chosen;
  }
}
