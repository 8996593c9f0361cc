/** Determines, before any row is read, the old and new key of a rotation, and which rows it skips. */

import { type Actor, vaultActor } from '../audit/event.ts';
import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError, RotationInProgressError, UncoveredTableError, ValidationError } from '../errors.ts';
import { nameOfKey } from '../keys/active-key.ts';
import { tableAmong } from '../keys/coverage.ts';
import { stagedKey, wasActive } from '../keys/staged-key.ts';
import type { EncryptedTables } from '../store/encrypted-tables.ts';
import type { MasterKeyRecord, MasterKeyStore } from '../store/master-keys.ts';
import { nameOfSkipped, type RotationRecord, type SkippedRow } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';
import { afterSwitch } from './failures.ts';

export interface RotationRequest {
  readonly oldKeyId?: string | undefined;
  readonly newKeyId?: string | undefined;
  /** `id` or `table:id`. */
  readonly skipIds?: readonly string[] | undefined;
  readonly upgradeFormat?: boolean | undefined;
  /** Continue although a live replica lacks a key: it will fail to read what the rotation writes. */
  readonly isForced?: boolean | undefined;
  /** Only this unfinished rotation is meant: none is begun in its place. */
  readonly unfinishedId?: string | undefined;
  /** The caller; the vault itself if there is none. */
  readonly actor?: Actor | undefined;
}

export interface RotationPlan {
  readonly fromKeyId: string;
  /** Null if the old key is no longer in the keyring and the new one is already active: perhaps no row needs the old one. */
  readonly from: MasterKey | null;
  readonly to: MasterKey;
  readonly skippedRows: readonly SkippedRow[];
  readonly upgradeFormat: boolean;
  readonly isForced: boolean;
  /** The rotation to be resumed, or null. */
  readonly unfinished: RotationRecord | null;
  /** Whether the target was already the active key when the rotation began, as when a finished rotation is repeated. */
  readonly isRerun: boolean;
  readonly coveredTables: readonly string[];
  /**
   * Whether the resumed rotation has switched the active key: rows may have been written since, under any key that a program
   * still has.
   */
  readonly isSwitched: boolean;
  /** The active key at planning time; null in a database that the vault has never served. */
  readonly activeKeyId: string | null;
  readonly actor: Actor;
}

export interface PlanContext {
  readonly tables: EncryptedTables;
  readonly tableNames: readonly string[];
  /** Null in a database without the vault's tables. */
  readonly records: { readonly masterKeys: MasterKeyStore; readonly rotations: RotationStore } | null;
  readonly keyring: Keyring;
}

/**
 * Throws ValidationError, ConfigurationError, or RotationInProgressError if an unfinished rotation has other keys, or the one meant
 * has ended.
 */
export async function planRotation(context: PlanContext, request: RotationRequest): Promise<RotationPlan> {
  const { records, keyring } = context;
  const activeKeyId = (await records?.masterKeys.activeKeyId()) ?? null;
  const unfinished = (await records?.rotations.findUnfinished()) ?? null;
  assertStillUnfinished(unfinished, request);
  const known = (await records?.masterKeys.all()) ?? [];
  const { fromKeyId, toKeyId } =
    unfinished === null ? await chooseKeys(context, request, known, activeKeyId) : keysOfUnfinished(unfinished, request);
  if (fromKeyId === toKeyId) throw new ValidationError('The old and new keys are identical: nothing to rotate.');
  const from = keyring.get(fromKeyId) ?? null;
  const isRerun = unfinished?.isRerun ?? toKeyId === activeKeyId;
  if (from === null && toKeyId !== activeKeyId) throw missingOldKeyError(known, fromKeyId);
  if (unfinished !== null) await assertStillCovered(context, unfinished);
  return {
    fromKeyId,
    from,
    to: newKey(keyring, known, toKeyId),
    skippedRows: await chooseSkips(context, request, unfinished, { fromKeyId, toKeyId }),
    upgradeFormat: request.upgradeFormat ?? unfinished?.upgradeFormat ?? false,
    isForced: request.isForced ?? false,
    isRerun,
    coveredTables: context.tableNames,
    unfinished,
    isSwitched: unfinished?.isSwitched ?? false,
    activeKeyId,
    actor: request.actor ?? vaultActor,
  };
}

/** What the database knows of master keys. */
type KnownKeys = readonly MasterKeyRecord[];

function missingOldKeyError(known: KnownKeys, keyId: string): ConfigurationError {
  const name = nameOfKey(known, keyId);
  return new ConfigurationError(`The old master key ${name} is not in the keyring: set it as PROVARA_MASTER_KEY_OLD.`);
}

function assertStillUnfinished(unfinished: RotationRecord | null, { unfinishedId }: RotationRequest): void {
  if (unfinishedId === undefined || unfinished?.id === unfinishedId) return;
  throw new RotationInProgressError(`Rotation ${unfinishedId} has ended meanwhile: nothing of it is left to do.`, {
    rotation_id: unfinishedId,
  });
}

interface KeyChoice {
  readonly fromKeyId: string;
  readonly toKeyId: string;
}

function keysOfUnfinished(unfinished: RotationRecord, { oldKeyId, newKeyId }: RotationRequest): KeyChoice {
  const { id, fromKeyId, toKeyId } = unfinished;
  if ((oldKeyId ?? fromKeyId) !== fromKeyId || (newKeyId ?? toKeyId) !== toKeyId) {
    throw new RotationInProgressError(
      `Rotation ${id} from ${fromKeyId} to ${toKeyId} is unfinished: finish it by running it again with the same keys.`,
      { rotation_id: id, from_key_id: fromKeyId, to_key_id: toKeyId },
    );
  }
  return { fromKeyId, toKeyId };
}

/** Throws UncoveredTableError: an unfinished rotation must finish in every table that it has begun. */
async function assertStillCovered({ tables, tableNames }: PlanContext, unfinished: RotationRecord): Promise<void> {
  const { id, coveredTables } = unfinished;
  const left = coveredTables.filter((table) => tableAmong(tableNames, table) === undefined);
  if (left.length === 0) return;
  const holding = (await tables.discover()).filter(({ table, rows }) => rows > 0 && tableAmong(left, table) !== undefined);
  if (holding.length === 0) return;
  const names = holding.map(({ table }) => table).join(', ');
  const error = new UncoveredTableError(
    `Rotation ${id} is unfinished, and was begun with these tables, which are not covered any more: ${names}. Name each in ` +
      'VAULT_ENCRYPTED_TABLES until it is finished, or, before it switches, cancelled.',
    { tables: holding },
  );
  throw afterSwitch(error, unfinished);
}

async function chooseKeys(
  { keyring, records }: PlanContext,
  request: RotationRequest,
  known: KnownKeys,
  activeKeyId: string | null,
): Promise<KeyChoice> {
  for (const [field, keyId] of Object.entries({ old_key_id: request.oldKeyId, new_key_id: request.newKeyId })) {
    if (keyId !== undefined && keyring.get(keyId) === undefined) {
      throw new ValidationError(`${field} ${keyId} is not in the keyring: see GET /admin/master-keys.`);
    }
  }
  const isActiveMissing = activeKeyId !== null && keyring.get(activeKeyId) === undefined;
  if (isActiveMissing && request.oldKeyId === undefined) throw missingOldKeyError(known, activeKeyId);
  const staged = stagedKey(keyring, known);
  const toKeyId = request.newKeyId ?? staged?.id ?? repeatedKeyId(keyring, activeKeyId);
  if (request.oldKeyId !== undefined) return { fromKeyId: request.oldKeyId, toKeyId };
  if (activeKeyId === null) throw new ConfigurationError('No key of the keyring opens a row: check PROVARA_MASTER_KEY.');
  if (toKeyId !== activeKeyId || staged !== null) return { fromKeyId: activeKeyId, toKeyId };
  const finished = await records?.rotations.findLastCompletedTo(toKeyId);
  const other = keyring.entries.find(({ key }) => key.id !== toKeyId);
  return { fromKeyId: finished?.fromKeyId ?? other?.key.id ?? toKeyId, toKeyId };
}

/** If no key is staged: the active key, if it is `PROVARA_MASTER_KEY_NEW` and the call thus repeats a finished rotation. */
function repeatedKeyId(keyring: Keyring, activeKeyId: string | null): string {
  if (activeKeyId !== null && keyring.givenAs('PROVARA_MASTER_KEY_NEW')?.id === activeKeyId) return activeKeyId;
  throw new ValidationError(
    'No new key is staged: set PROVARA_MASTER_KEY_NEW to a fresh key (npm run key:generate) and restart. ' +
      'To take along rows of an older key, or to go back to one, name both key ids.',
  );
}

function newKey(keyring: Keyring, known: KnownKeys, keyId: string): MasterKey {
  const key = keyring.get(keyId);
  if (key === undefined) {
    throw new ConfigurationError(
      `The new master key ${nameOfKey(known, keyId)} is not in the keyring: set it as PROVARA_MASTER_KEY_NEW.`,
    );
  }
  if (key.isPassphrase && !wasActive(known, keyId)) {
    throw new ValidationError('The new master key must be 64 hexadecimal characters: make one with `npm run key:generate`.');
  }
  return key;
}

async function chooseSkips(
  context: PlanContext,
  { skipIds }: RotationRequest,
  unfinished: RotationRecord | null,
  { fromKeyId, toKeyId }: KeyChoice,
): Promise<readonly SkippedRow[]> {
  if (skipIds === undefined) return asCovered(unfinished?.skippedRows ?? [], context.tableNames);
  const earlier = unfinished ?? (await context.records?.rotations.findLastCompletedTo(toKeyId)) ?? null;
  const known = earlier?.fromKeyId === fromKeyId ? earlier.skippedRows : [];
  return resolveSkips(context, skipIds, asCovered(known, context.tableNames));
}

/** The skipped rows, with their tables as spelt in the settings now. */
function asCovered(skipped: readonly SkippedRow[], tableNames: readonly string[]): SkippedRow[] {
  return skipped.map(({ table, id }) => ({ table: tableAmong(tableNames, table) ?? table, id }));
}

/**
 * Rows that the same rotation has skipped before are accepted even if they have been deleted since: the same command must keep
 * working.
 */
async function resolveSkips(
  { tables, tableNames }: PlanContext,
  skipIds: readonly string[],
  known: readonly SkippedRow[],
): Promise<SkippedRow[]> {
  const earlier = new Map(known.flatMap((row) => [[row.id, row] as const, [nameOfSkipped(row), row] as const]));
  const wanted = [...new Set(skipIds)].map((skipId) => ({ skipId, named: parseSkipId(tableNames, skipId) }));
  const asked = wanted.flatMap(({ skipId, named }) => (named === null ? [skipId] : [skipId, named.id]));
  const held = new Map<string, ReadonlySet<string>>();
  for (const table of tableNames) held.set(table, await tables.idsAmong(table, asked));
  return wanted.map(({ skipId, named }) => {
    const row = named && earlier.get(nameOfSkipped(named));
    return row ?? earlier.get(skipId) ?? resolveSkip(held, skipId, named);
  });
}

/** The table and row if `skipId` is, or may be, `table:id` of a covered table; otherwise null. */
function parseSkipId(tableNames: readonly string[], skipId: string): SkippedRow | null {
  const [prefix = '', ...rest] = skipId.split(':');
  const table = rest.length === 0 ? undefined : tableAmong(tableNames, prefix);
  return table === undefined ? null : { table, id: rest.join(':') };
}

function resolveSkip(held: ReadonlyMap<string, ReadonlySet<string>>, skipId: string, named: SkippedRow | null): SkippedRow {
  if (named !== null && held.get(named.table)?.has(named.id)) return named;
  const [table, ...others] = [...held].filter(([, ids]) => ids.has(skipId)).map(([name]) => name);
  if (table === undefined) throw new ValidationError(`skip_ids: no covered table has a row ${JSON.stringify(skipId)}.`);
  if (others.length > 0) {
    throw new ValidationError(`skip_ids: ${JSON.stringify(skipId)} is in several tables: write it as ${table}:${skipId}.`);
  }
  return { table, id: skipId };
}
