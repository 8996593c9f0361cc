/** Takes a snapshot of the covered tables in bounded memory: ciphertext only, authenticated by the active key. */

import { createHash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import { ConfigurationError } from '../errors.ts';
import { missingKeyError } from '../keys/active-key.ts';
import type { CoverageSettings } from '../keys/coverage.ts';
import type { Throttle } from '../runtime/throttle.ts';
import type { Cell } from '../store/cells.ts';
import type { MasterKeyStore } from '../store/master-keys.ts';
import type { CodedRow, SnapshotRows, TableShape } from '../store/snapshot-rows.ts';
import { hmacOf, maxLineBytes, type SnapshotHeader, type SnapshotTable, writeHeader, writeRow, writeTrailer } from './format.ts';
import { type CellRow, keyIdHintOf, nameOfRow, openingKeyId } from './rows.ts';
import { Spool } from './spool.ts';

export interface TakeContext {
  readonly rows: SnapshotRows;
  readonly coverage: CoverageSettings;
  readonly masterKeys: MasterKeyStore;
  readonly keyring: Keyring;
  /** Called after each row. */
  readonly throttle: Throttle;
}

export interface TakeOptions {
  /** Taken as the active key if the database names none yet. */
  readonly firstKeyId?: string | undefined;
  readonly onPage?: (shape: TableShape, rows: readonly CodedRow[]) => Promise<void>;
}

export interface TakenRows {
  readonly header: SnapshotHeader;
  /** To be closed by its owner. */
  readonly spool: Spool;
}

export interface Snapshot {
  readonly header: SnapshotHeader;
  /** The bytes; may be read only once. */
  readonly chunks: () => AsyncGenerator<Buffer>;
  readonly close: () => Promise<void>;
}

/**
 * Reads every covered row into a temporary file, so that the header can name the keys that the rows need. A row that no key opens
 * is included and counted. Each row is as it was when it was read: nothing is locked. Throws ConfigurationError if a covered
 * table or the active key is missing; StorageUnavailableError; and what `throttle` throws.
 */
export async function takeSnapshot(context: TakeContext, options: TakeOptions = {}): Promise<TakenRows> {
  const passed: Spool[] = [];
  try {
    return await context.rows.pass(async () => {
      await closeAll(passed);
      const taken = await takeOnce(context, options);
      passed.push(taken.spool);
      return taken;
    });
  } catch (error) {
    await closeAll(passed);
    throw error;
  }
}

async function closeAll(spools: Spool[]): Promise<void> {
  for (const spool of spools.splice(0)) await spool.close();
}

async function takeOnce(context: TakeContext, { firstKeyId, onPage }: TakeOptions): Promise<TakenRows> {
  const { masterKeys, keyring } = context;
  const keyId = (await masterKeys.activeKeyId()) ?? firstKeyId;
  if (keyId === undefined) throw new ConfigurationError('The database names no active key: start the vault on it once.');
  const key = keyring.get(keyId);
  if (key === undefined) throw missingKeyError(await masterKeys.all(), keyId);
  const spool = await Spool.create();
  try {
    return { header: await spoolRows(context, spool, key, onPage), spool };
  } catch (error) {
    await spool.close();
    throw error;
  }
}

async function spoolRows(
  { rows, coverage, masterKeys, keyring, throttle }: TakeContext,
  spool: Spool,
  key: MasterKey,
  onPage: TakeOptions['onPage'],
): Promise<SnapshotHeader> {
  const createdAt = new Date().toISOString();
  const known = new Set((await masterKeys.all()).map(({ keyId }) => keyId));
  const needs: Needs = { keyIds: new Set(), rowsUnopened: 0 };
  const tables: SnapshotTable[] = [];
  for (const table of coverage.encryptedTables) {
    const shape = await rows.shape(table);
    let count = 0;
    for await (const page of rows.pages(shape)) {
      for (const { cells } of page) {
        noteNeeds(needs, { keyring, known }, { ...shape, cells: JSON.parse(cells) as Cell[] });
        throttle();
      }
      await spool.write(Buffer.from(page.map((row) => toLine(shape, row)).join(''), 'utf8'));
      await onPage?.(shape, page);
      count += page.length;
      await nextTurn();
    }
    tables.push({ table, columns: [...shape.columns], rows: count });
  }
  const counts = { key_ids: [...needs.keyIds].sort(), rows_unopened: needs.rowsUnopened, tables };
  return { created_at: createdAt, active_key_id: key.id, ...counts };
}

interface Needs {
  readonly keyIds: Set<string>;
  rowsUnopened: number;
}

/**
 * A row that does not open may name its key. That counts only if the database knows the key, since anyone may have written the
 * name.
 */
function noteNeeds(
  needs: Needs,
  { keyring, known }: { readonly keyring: Keyring; readonly known: ReadonlySet<string> },
  row: CellRow,
): void {
  const keyId = openingKeyId(keyring, row);
  if (keyId === null) needs.rowsUnopened += 1;
  const hint = keyId ?? keyIdHintOf(row);
  if (hint !== null && (keyId !== null || known.has(hint))) needs.keyIds.add(hint);
}

/** `keyring` must be the one that {@link takeSnapshot} used. */
export function assemble({ header, spool }: TakenRows, keyring: Keyring): Snapshot {
  const key = keyring.get(header.active_key_id);
  if (key === undefined) throw new Error('The key that authenticates a snapshot has left the keyring.');
  return { header, chunks: () => encodedChunks(header, spool, key), close: () => spool.close() };
}

/** Throws ConfigurationError for a row too large to be restored. */
function toLine(shape: TableShape, { rowId, cells }: CodedRow): string {
  const line = writeRow(shape.table, rowId, cells);
  if (Buffer.byteLength(line) <= maxLineBytes) return line;
  const id = nameOfRow({ ...shape, cells: JSON.parse(cells) as Cell[] }, rowId);
  throw new ConfigurationError(
    `${shape.table}.id=${id} is larger than the ${maxLineBytes} bytes that a row of a snapshot may have. Without VAULT_SNAPSHOT_DIR a rotation takes none.`,
  );
}

async function* encodedChunks(header: SnapshotHeader, spool: Spool, key: MasterKey): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  const first = Buffer.from(writeHeader(header), 'utf8');
  hash.update(first);
  yield first;
  for await (const chunk of spool.chunks()) {
    hash.update(chunk);
    yield chunk;
  }
  const digest = hash.digest();
  const rows = header.tables.reduce((sum, table) => sum + table.rows, 0);
  yield Buffer.from(writeTrailer({ rows, sha256: digest.toString('hex'), key_id: key.id, hmac: hmacOf(key, digest) }), 'utf8');
}
