/** Tells which tables a rotation covers, and which it would leave behind under the old key. */

import { ConfigurationError, UncoveredTableError } from '../errors.ts';
import { apiKeysTable } from '../store/encrypted-rows.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';

export interface CoverageSettings {
  /** The tables whose rows are under the master key. */
  readonly encryptedTables: readonly string[];
  /** Tables of the same shape that are knowingly left alone, such as a backup copy. */
  readonly exemptTables: readonly string[];
}

export interface Coverage {
  readonly covered: readonly TableCount[];
  /** Named in the settings, but not in the database with the three columns. */
  readonly missing: readonly string[];
  /** Of the encrypted shape, with rows, and in neither setting. */
  readonly uncovered: readonly TableCount[];
}

export async function inspectCoverage(tables: EncryptedTables, settings: CoverageSettings): Promise<Coverage> {
  const { encryptedTables, exemptTables } = settings;
  const found = await tables.discover();
  const names = new Set(found.map(({ table }) => table));
  return {
    covered: found.filter(({ table }) => encryptedTables.includes(table)),
    missing: encryptedTables.filter((table) => !names.has(table)),
    uncovered: found.filter(({ table, rows }) => rows > 0 && !encryptedTables.includes(table) && !exemptTables.includes(table)),
  };
}

/** How many rows the covered tables hold. */
export function rowsOf({ covered }: Coverage): number {
  return covered.reduce((sum, { rows }) => sum + rows, 0);
}

/**
 * Throws ConfigurationError where a trigger would touch `updated_at` as rows are rotated: of several rows of one name that says which
 * one counts.
 */
export async function assertNothingTouched(tables: EncryptedTables): Promise<void> {
  const touching = (await tables.triggers(apiKeysTable)).filter(({ sql }) => firesOnRotation(sql) && /\bupdated_at\b/i.test(sql));
  if (touching.length === 0) return;
  const names = touching.map(({ name }) => name).join(', ');
  throw new ConfigurationError(
    `A rotation would change updated_at of every row, by the trigger ${names} of api_keys: drop it, rotate, and create it again.`,
  );
}

/** Of a trigger: whether it is one on updates, of any column or of one that a rotation writes. */
function firesOnRotation(sql: string): boolean {
  const [, columns] = /\bUPDATE(\s+OF\s+.+?)?\s+ON\b/is.exec(sql.split(/\bBEGIN\b/i)[0] ?? '') ?? [null, null];
  if (columns === null) return false;
  return columns === undefined || /\b(encrypted_value|iv|auth_tag|key_id|key_id_tag)\b/i.test(columns);
}

export function assertNothingUncovered({ uncovered }: Coverage): void {
  if (uncovered.length === 0) return;
  const names = uncovered.map(({ table }) => table).join(', ');
  throw new UncoveredTableError(
    `These tables hold encrypted rows that the rotation would leave behind: ${names}. Name each in VAULT_ENCRYPTED_TABLES ` +
      'if the gateway uses it, or in VAULT_EXEMPT_TABLES if it is a copy; nothing was written.',
    { tables: uncovered },
  );
}
