/** Whoever reads all rows sees all of them, also where a migration that makes their table anew gives them other row ids meanwhile. */

import NativeDatabase from 'libsql';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Keyring } from '../../../src/crypto/keyring.ts';
import { type MasterKey, parseMasterKey } from '../../../src/crypto/master-key.ts';
import { StorageUnavailableError } from '../../../src/errors.ts';
import { survey } from '../../../src/keys/survey.ts';
import { openAllRows } from '../../../src/rotation/gate.ts';
import { workHere } from '../../../src/rotation/page-workers.ts';
import { Progress } from '../../../src/rotation/progress.ts';
import { verify } from '../../../src/rotation/verify.ts';
import { takeSnapshot } from '../../../src/snapshot/take.ts';
import { Database } from '../../../src/store/database.ts';
import { pageRows } from '../../../src/store/encrypted-rows.ts';
import { EncryptedTables } from '../../../src/store/encrypted-tables.ts';
import { MasterKeyStore } from '../../../src/store/master-keys.ts';
import { migrate } from '../../../src/store/migrations.ts';
import { SnapshotRows } from '../../../src/store/snapshot-rows.ts';
import { keyA, keyB, keyIdB, temporaryDatabase } from '../../support/vault.ts';

const [from, to] = [keyA, keyB].map(parseMasterKey) as [MasterKey, MasterKey];
const keyring = new Keyring([from, to].map((key, index) => ({ source: `KEY_${index}`, key })));
const coverage = { encryptedTables: ['api_keys'], exemptTables: [] };
const rows = 2 * pageRows;

const noneLate = (): Promise<void> => Promise.reject(new Error('No row is late.'));

/** As SQLite's own documentation says that a table is to be changed. */
function makeAnew(database: NativeDatabase.Database): void {
  const { sql } = database.prepare("SELECT sql FROM sqlite_schema WHERE name = 'api_keys'").get() as { sql: string };
  database.exec(`BEGIN; ${sql.replace('api_keys', 'remade')}; INSERT INTO remade SELECT * FROM api_keys ORDER BY rowid;
    DROP TABLE api_keys; ALTER TABLE remade RENAME TO api_keys; COMMIT`);
}

/** A table whose first row ids are free, and `remade`, which moves every row down by a page, once or as often as it is told. */
async function start() {
  const { url, gateway } = await temporaryDatabase();
  const database = new Database({ url });
  await migrate(database);
  const other = new NativeDatabase(url.slice('file:'.length));
  onTestFinished(async () => {
    other.close();
    await database.close();
  });
  await gateway.fill(keyB, rows + pageRows);
  await gateway.run('DELETE FROM api_keys WHERE rowid <= ?', [pageRows]);
  const remade = (times = 1) => {
    let left = times;
    return (): void => {
      left -= 1;
      if (left >= 0) makeAnew(other);
    };
  };
  const workWith = (assertGoesOn: () => void) => ({
    tables: new EncryptedTables(database),
    coverage: { encryptedTables: ['api_keys'], exemptTables: [] },
    workers: workHere({ from, to, upgradeFormat: false, skippedRows: [], isSwitched: false }, keyring),
    progress: new Progress(),
    assertGoesOn,
  });
  return { gateway, database, remade, workWith };
}

describe('all rows of a table that is made anew meanwhile are seen by', () => {
  it('a gate and a verification', async () => {
    const { remade, workWith } = await start();
    expect(await openAllRows(workWith(remade()))).toMatchObject({ rowsScanned: rows, rowsNew: rows });
    const again = await start();
    expect(await verify(again.workWith(again.remade()), noneLate)).toMatchObject({ rowsScanned: rows, rowsNew: rows });
  });

  it('a verification that rotates a late one just then', async () => {
    const { gateway, remade, workWith } = await start();
    const id = `row-${pageRows + 5}`;
    await gateway.update(keyA, id, 'sample-again');
    const makeAnewOnce = remade();
    const rotate = async (): Promise<void> => {
      makeAnewOnce();
      await gateway.update(keyB, id, 'sample-again');
    };
    const found = await verify(
      workWith(() => undefined),
      rotate,
    );
    expect(found).toMatchObject({ rowsScanned: rows, rowsNew: rows });
  });

  it('a survey', async () => {
    const { database, remade } = await start();
    const found = await survey(new EncryptedTables(database), coverage, keyring, remade());
    expect([found.rowsScanned, found.rowsByKeyId]).toEqual([rows, new Map([[keyIdB, rows]])]);
  });

  it('a snapshot', async () => {
    const { database, remade } = await start();
    const masterKeys = new MasterKeyStore(database);
    const context = { rows: new SnapshotRows(database), coverage, masterKeys, keyring, throttle: remade() };
    const { header, spool } = await takeSnapshot(context, { firstKeyId: keyIdB });
    await spool.close();
    expect(header.tables.map((table) => table.rows)).toEqual([rows]);
  });

  it('a verification, or it says that it has not, where that happens each time', async () => {
    const { remade, workWith } = await start();
    await expect(verify(workWith(remade(100)), noneLate)).rejects.toThrow(StorageUnavailableError);
  });
});
