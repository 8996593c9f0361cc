/** Determines which tables a rotation covers, and which it would leave behind under the old key. */

import { UncoveredTableError } from '../errors.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';

export interface CoverageSettings {
  /** The tables whose rows are under the master key. Each has one spelling, which all reports about its rows use. */
  readonly encryptedTables: readonly string[];
  /** Tables of the same shape that are deliberately left alone, such as a backup copy. */
  readonly exemptTables: readonly string[];
}

export interface Coverage {
  readonly covered: readonly TableCount[];
  /** Named in the settings, but missing in the database or without the three columns. */
  readonly missing: readonly string[];
  /** Tables of the encrypted shape, with rows, that neither setting names. */
  readonly uncovered: readonly TableCount[];
}

/** Counts the rows of each table, up to `mostRows` if given: counting all of them reads an index of each table to its end. */
export async function inspectCoverage(tables: EncryptedTables, settings: CoverageSettings, mostRows?: number): Promise<Coverage> {
  const { encryptedTables, exemptTables } = settings;
  const found = await tables.discover(mostRows);
  const covered = found.flatMap(({ table, rows }) => {
    const name = tableAmong(encryptedTables, table);
    return name === undefined ? [] : [{ table: name, rows }];
  });
  return {
    covered,
    missing: encryptedTables.filter((name) => !covered.some(({ table }) => table === name)),
    uncovered: found.filter(
      ({ table, rows }) => rows > 0 && tableAmong([...encryptedTables, ...exemptTables], table) === undefined,
    ),
  };
}

/** The one of these names that is the table's: SQLite ignores the case of names, for A to Z only. */
export function tableAmong(names: readonly string[], table: string): string | undefined {
  const inLowerCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return names.find((name) => inLowerCase(name) === inLowerCase(table));
}

/** The number of rows in the covered tables. */
export function rowsOf({ covered }: Coverage): number {
  return covered.reduce((sum, { rows }) => sum + rows, 0);
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
