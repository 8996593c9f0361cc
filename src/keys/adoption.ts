/** Decides, once per database, which key of the keyring its rows are encrypted under. */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError } from '../errors.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { MasterKeyStore } from '../store/master-keys.ts';
import { type CoverageSettings, inspectCoverage } from './coverage.ts';
import { coveredRows, openCoveredRow } from './covered-rows.ts';

export interface AdoptionContext {
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly masterKeys: MasterKeyStore;
  readonly keyring: Keyring;
}

/**
 * Records the keyring's keys, unless it lacks the active one. If the database names no active key yet, adopts one:
 * `PROVARA_MASTER_KEY` if it opens a row or there are no rows, otherwise the key that opens most rows; none if no key opens any
 * row. Throws ConfigurationError if the first key of an empty table is a passphrase.
 */
export async function adoptActiveKey(context: AdoptionContext): Promise<void> {
  const { masterKeys, keyring } = context;
  let activeKeyId = await masterKeys.activeKeyId();
  if (activeKeyId === null) {
    const key = await findKeyInUse(context);
    if (key !== null) await masterKeys.adopt(key);
    // Another replica may have adopted one first.
    activeKeyId = await masterKeys.activeKeyId();
  }
  // If the active key is missing, the other keys may be wrong as well: a mistyped one would stay on record forever.
  if (activeKeyId === null || keyring.get(activeKeyId) === undefined) return;
  await masterKeys.register(keyring.entries.map(({ key }) => key));
}

async function findKeyInUse({ tables, coverage, keyring }: AdoptionContext): Promise<MasterKey | null> {
  const primary = keyring.givenAs('PROVARA_MASTER_KEY');
  const rowsByKey = new Map<MasterKey, number>();
  let isEmpty = true;
  const { covered } = await inspectCoverage(tables, coverage, 1);
  for await (const { row } of coveredRows(tables, covered)) {
    isEmpty = false;
    const opened = openCoveredRow(keyring, row);
    if (opened === null) continue;
    opened.plaintext.fill(0);
    if (opened.key === primary) return primary;
    rowsByKey.set(opened.key, (rowsByKey.get(opened.key) ?? 0) + 1);
  }
  if (isEmpty) return firstKeyOfEmptyTable(primary);
  const [most] = [...rowsByKey].sort(([, left], [, right]) => right - left);
  return most?.[0] ?? null;
}

function firstKeyOfEmptyTable(primary: MasterKey | undefined): MasterKey | null {
  if (primary?.isPassphrase) {
    throw new ConfigurationError(
      'PROVARA_MASTER_KEY must be 64 hexadecimal characters: a passphrase is accepted only for rows that were written with it. ' +
        'Make a key with `npm run key:generate`.',
    );
  }
  return primary ?? null;
}
