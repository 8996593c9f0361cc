/** The master keys of the environment: all of them open; which one seals is the database's to say. */

import { labelOfKey, type MasterKey } from './master-key.ts';
import { openRow, type RowBinding, type RowCiphertext } from './row.ts';

/** A master key and the settings that hold it, such as `PROVARA_MASTER_KEY_NEW`. */
export interface KeyringEntry {
  readonly sources: readonly string[];
  readonly key: MasterKey;
}

/** A master key under one of the settings that hold it: what a keyring is built of. */
export interface GivenKey {
  readonly source: string;
  readonly key: MasterKey;
}

export interface OpenedRow {
  readonly key: MasterKey;
  readonly plaintext: Buffer;
}

export class Keyring {
  /** In the order given; a key that stands under two settings is one entry. */
  readonly entries: readonly KeyringEntry[];
  readonly #keys: ReadonlyMap<string, MasterKey>;

  constructor(keys: readonly GivenKey[]) {
    const byId = new Map<string, KeyringEntry>();
    for (const { source, key } of keys) {
      const known = byId.get(key.id);
      byId.set(key.id, { key: known?.key ?? key, sources: [...(known?.sources ?? []), source] });
    }
    this.entries = [...byId.values()];
    this.#keys = new Map(this.entries.map(({ key }) => [key.id, key]));
  }

  /** What an equal keyring is built of, here or on another thread. */
  get given(): GivenKey[] {
    return this.entries.flatMap(({ sources, key }) => sources.map((source) => ({ source, key })));
  }

  get(keyId: string): MasterKey | undefined {
    return this.#keys.get(keyId);
  }

  /** The key that this setting holds. */
  givenAs(source: string): MasterKey | undefined {
    return this.entries.find(({ sources }) => sources.includes(source))?.key;
  }

  /** What logs call a key that this keyring holds. */
  labelOf(keyId: string): string {
    return labelOfKey(keyId, this.get(keyId)?.isPassphrase === true);
  }

  /** Tries the hinted key first and then every other; null where none opens the row. */
  openRow(binding: RowBinding | null, row: RowCiphertext, keyIdHint: string | null): OpenedRow | null {
    const hinted = keyIdHint === null ? undefined : this.#keys.get(keyIdHint);
    if (hinted !== undefined) {
      const plaintext = openRow(hinted, binding, row);
      if (plaintext !== null) return { key: hinted, plaintext };
    }
    for (const { key } of this.entries) {
      if (key === hinted) continue;
      const plaintext = openRow(key, binding, row);
      if (plaintext !== null) return { key, plaintext };
    }
    return null;
  }
}
