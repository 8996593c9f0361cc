/** `snapshot` and `restore`: the covered tables' ciphertext to a file and back, directly from and to the database. */

import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { cliActor } from '../audit/event.ts';
import { type CoreConfig, readKeyringConfig } from '../config.ts';
import { keptEnvironment } from '../development.ts';
import { ConfigurationError, ValidationError } from '../errors.ts';
import type { Environment } from '../settings.ts';
import { checkSnapshot } from '../snapshot/check.ts';
import { assertReplaceable, writeSnapshotTo } from '../snapshot/file.ts';
import { assertCovered } from '../snapshot/fit.ts';
import type { RestoreMode } from '../snapshot/restore.ts';
import { Spool } from '../snapshot/spool.ts';
import type { Snapshot } from '../snapshot/take.ts';
import { exitCodes } from './exit-codes.ts';
import { assertReadable } from './input.ts';
import { isOutputError, OutputError, print, printError, printJson } from './output.ts';
import { readConfig, warnOfUncovered, withServices } from './session.ts';

export interface SnapshotFlags {
  readonly out?: string;
  readonly check?: string;
  readonly json?: boolean;
}

/** Returns the exit code. */
export async function snapshot({ out, check, json = false }: SnapshotFlags, environment: Environment): Promise<number> {
  if (out !== undefined && check !== undefined) throw new ValidationError('--out and --check exclude each other.');
  if (check !== undefined) return checkFile(check, json, environment);
  if (json && out === undefined)
    throw new ValidationError('--json needs --out or --check: standard output carries the snapshot.');
  if (out !== undefined) await assertReplaceable(out);
  return withServices(readConfig(environment), async (services) => {
    const { isMigrated, migrate, snapshots } = services;
    if (!(await isMigrated())) {
      throw new ConfigurationError('The vault has not served this database yet: there is no active key on record.');
    }
    await migrate();
    await warnOfUncovered(services, 'they are not in the snapshot');
    const taken = await snapshots.take(cliActor());
    if (out === undefined) await toStandardOutput(taken.chunks(), taken.close);
    else await toFile(out, taken, json);
    const { rows_unopened } = taken.header;
    if (rows_unopened === 0) return exitCodes.done;
    printError(`${rows_unopened} row(s) do not open with any key: they are in the snapshot, and come back as they are.`);
    return exitCodes.rowsDoNotOpen;
  });
}

async function toFile(out: string, taken: Snapshot, json: boolean): Promise<void> {
  const { tables, rows_unopened, key_ids } = taken.header;
  const { path, sha256 } = await writeSnapshotTo(out, taken);
  if (json) return printJson({ path, sha256, tables, key_ids, rows_unopened });
  print(`[snapshot] ${path}`);
  print(`[snapshot] sha256: ${sha256}`);
  for (const { table, rows } of tables) print(`[snapshot] ${table}: ${rows} row(s)`);
  print(`[snapshot] needs: ${key_ids.join(', ') || 'no key'}`);
}

export interface RestoreFlags {
  readonly mode: RestoreMode;
  readonly json?: boolean;
}

/** `file` may be `-`, for standard input. Returns the exit code. */
export async function restore(file: string, { mode, json }: RestoreFlags, environment: Environment): Promise<number> {
  const config = readConfig(environment);
  return withServices(config, async ({ isMigrated, migrate, snapshots, checkpoint }) => {
    snapshots.assertMode(mode);
    // On a database that the vault has never served, a file that is itself refused leaves no trace.
    const source = (await isMigrated()) ? sourceOf(file) : await checkedSource(file, config);
    await migrate();
    const { restored, kept, left, before } = await snapshots.restore(cliActor(), source, mode, Number.POSITIVE_INFINITY);
    await checkpoint();
    const code = left === 0 ? exitCodes.done : exitCodes.rowsDoNotOpen;
    if (json) {
      printJson({ restored, kept, left, before: before && { path: before.path, sha256: before.sha256 } });
      return code;
    }
    if (before !== null) print(`[restore] the state before is in ${before.path} (sha256 ${before.sha256})`);
    print(`[restore] restored ${restored} row(s), kept ${kept}.`);
    if (left > 0) printError(`${left} row(s) of the tables do not open and were left: ${leftAdvice}`);
    return code;
  });
}

const leftAdvice =
  'a master key that is not in the environment may open them. Give it as PROVARA_MASTER_KEY_OLD, or delete them first if it is lost.';

/** Throws ValidationError. */
export function parseMode(value: string): RestoreMode {
  if (value === 'merge' || value === 'replace') return value;
  throw new ValidationError('--mode takes merge or replace.');
}

/** Needs no database. */
async function checkFile(file: string, json: boolean, environment: Environment): Promise<number> {
  const keyring = readKeyringConfig(keptEnvironment(environment));
  const spool = await Spool.from(sourceOf(file), Number.POSITIVE_INFINITY);
  const { header, rows, rowsUnopened, rowsByKeyId } = await checkSnapshot(spool, keyring);
  await spool.close();
  if (json) {
    const { created_at, active_key_id } = header;
    const counts = { rows_unopened: rowsUnopened, rows_by_key_id: Object.fromEntries(rowsByKeyId) };
    // The active key also authenticates the snapshot.
    printJson({ rows, hmac_key_id: active_key_id, created_at, active_key_id, ...counts });
    return rowsUnopened === 0 ? exitCodes.done : exitCodes.rowsDoNotOpen;
  }
  print(`[snapshot] whole and authentic under ${header.active_key_id}: ${rows - rowsUnopened} of ${rows} row(s) open.`);
  print(`[snapshot] taken ${header.created_at}; active key ${header.active_key_id}`);
  for (const [keyId, count] of rowsByKeyId) print(`[snapshot] needs ${keyId}: ${count} row(s)`);
  const others = header.key_ids.filter((keyId) => !rowsByKeyId.has(keyId));
  for (const keyId of others) print(`[snapshot] needs ${keyId}, which is not given`);
  if (rowsUnopened === 0) return exitCodes.done;
  printError(`${rowsUnopened} row(s) did not open when it was taken either, and come back as they are.`);
  return exitCodes.rowsDoNotOpen;
}

/** Throws ValidationError if it cannot be read. */
function sourceOf(file: string): AsyncIterable<Uint8Array> {
  if (file === '-') return process.stdin;
  assertReadable(file);
  return createReadStream(file);
}

/** As {@link sourceOf}, after checking that it is complete, authentic and of covered tables. Throws InvalidSnapshotError. */
async function checkedSource(file: string, { keyring, coverage }: CoreConfig): Promise<AsyncIterable<Uint8Array>> {
  const spool = await Spool.from(sourceOf(file), Number.POSITIVE_INFINITY);
  assertCovered((await checkSnapshot(spool, keyring)).header, coverage.encryptedTables);
  return spool.chunks();
}

async function toStandardOutput(chunks: AsyncIterable<Buffer>, close: () => Promise<void>): Promise<void> {
  try {
    await pipeline(chunks, process.stdout, { end: false });
  } catch (error) {
    if (!isOutputError(error)) throw error;
    throw new OutputError(`Standard output has not taken all of the snapshot (${error.code}).`);
  } finally {
    await close();
  }
}
