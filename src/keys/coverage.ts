/** Tells which tables a rotation covers, and which it would leave behind under the old key. */

import { UncoveredTableError } from '../errors.ts';
import type { EncryptedTables, TableCount } from '../store/encrypted-tables.ts';

export interface CoverageSettings {
  /** The tables whose rows are under the master key, each in one spelling: what is said of their rows names them so. */
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

/** Counts the rows of each table, or only up to so many: to count all of them is to read an index of each to its end. */
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

/** Which of these names is the table's: to SQLite, names are the same in upper and lower case, of A to Z alone. */
export function tableAmong(names: readonly string[], table: string): string | undefined {
  const inLowerCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return names.find((name) => inLowerCase(name) === inLowerCase(table));
}

/** How many rows the covered tables hold. */
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
