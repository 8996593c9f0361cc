/** What an operator needs to know of every master key before adding, rotating or retiring one. */

import type { Keyring } from '../crypto/keyring.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';
import type { RotationStore } from '../store/rotations.ts';
import { type CoverageSettings, inspectCoverage } from './coverage.ts';
import { survey } from './survey.ts';

const secondsPerDay = 86_400;

/** `staged`: never was active. `retired`: was, and is not any more. */
type MasterKeyState = 'active' | 'staged' | 'retired';

export interface MasterKeyReport {
  readonly keyId: string;
  /** The setting that holds it, or null where the keyring does not. */
  readonly source: string | null;
  readonly state: MasterKeyState;
  /** Rows that it opens; null where it is not in the keyring, so that nobody can tell. */
  readonly rows: number | null;
  /** Whole days since it became active, or since the vault first saw it. */
  readonly ageDays: number;
  readonly rotationDue: boolean;
  /** Nothing that the vault can see needs it any more. */
  readonly safeToRetire: boolean;
  readonly statelessLastUsedAt: number | null;
}

export interface ReportContext {
  readonly tables: EncryptedTables;
  readonly coverage: CoverageSettings;
  readonly masterKeys: MasterKeyStore;
  readonly rotations: RotationStore;
  readonly keyring: Keyring;
  readonly rotationDueDays: number;
}

/** Opens every row to answer: the counts are what is, not what a column says. */
export async function reportMasterKeys(context: ReportContext): Promise<{ activeKeyId: string | null; keys: MasterKeyReport[] }> {
  const { tables, coverage, masterKeys, rotations, keyring, rotationDueDays } = context;
  const [activeKeyId, records, unfinished] = [
    await masterKeys.activeKeyId(),
    await masterKeys.all(),
    await rotations.findUnfinished(),
  ];
  const [{ rowsByKeyId }, { uncovered }] = [await survey(tables, coverage, keyring), await inspectCoverage(tables, coverage)];
  const now = Math.floor(Date.now() / 1000);
  const keys = records.map((record): MasterKeyReport => {
    const { keyId } = record;
    const source = keyring.entries.find(({ key }) => key.id === keyId)?.sources[0] ?? null;
    const rows = source === null ? null : (rowsByKeyId.get(keyId) ?? 0);
    const state = stateOf(record, activeKeyId);
    const isInRotation = unfinished !== null && [unfinished.fromKeyId, unfinished.toKeyId].includes(keyId);
    const ageDays = Math.floor((now - (record.activatedAt ?? record.firstSeenAt)) / secondsPerDay);
    return {
      keyId,
      source,
      state,
      rows,
      ageDays,
      rotationDue: state === 'active' && ageDays >= rotationDueDays,
      safeToRetire: state !== 'active' && rows === 0 && !isInRotation && uncovered.length === 0,
      statelessLastUsedAt: record.statelessLastUsedAt,
    };
  });
  return { activeKeyId, keys };
}

function stateOf({ keyId, activatedAt }: MasterKeyRecord, activeKeyId: string | null): MasterKeyState {
  if (keyId === activeKeyId) return 'active';
  return activatedAt === null ? 'staged' : 'retired';
}
