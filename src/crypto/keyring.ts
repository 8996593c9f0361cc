/** The master keys of the environment: any of them may open a row; the database decides which one seals. */

import { labelOfKey, type MasterKey } from './master-key.ts';
import { openRow, type RowBinding, type RowCiphertext } from './row.ts';

/** A master key and the settings that hold it, such as `PROVARA_MASTER_KEY_NEW`. */
export interface KeyringEntry {
  readonly sources: readonly string[];
  readonly key: MasterKey;
}

/** A master key and one setting that holds it: the input of a keyring. */
export interface GivenKey {
  readonly source: string;
  readonly key: MasterKey;
}

export interface OpenedRow {
  readonly key: MasterKey;
  readonly plaintext: Buffer;
}

export class Keyring {
  /** In the order given; a key held by two settings is one entry. */
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

  /** The input that builds an equal keyring, here or on another thread. */
  get given(): GivenKey[] {
    return this.entries.flatMap(({ sources, key }) => sources.map((source) => ({ source, key })));
  }

  get(keyId: string): MasterKey | undefined {
    return this.#keys.get(keyId);
  }

  /** The key held by this setting. */
  givenAs(source: string): MasterKey | undefined {
    return this.entries.find(({ sources }) => sources.includes(source))?.key;
  }

  /** The name of a key for logs; see {@link labelOfKey}. */
  labelOf(keyId: string): string {
    return labelOfKey(keyId, this.get(keyId)?.isPassphrase === true);
  }

  /** Tries the hinted key first and then every other; null if none opens the row. */
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
