/** The log of a file is checkpointed beside the thread that uses it: reads go on, writes wait in turn, and an end waits for the checkpoint. */

import { renameSync, statSync, symlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import NativeDatabase from 'libsql';
import { describe, expect, it } from 'vitest';
import { Database } from '../../../src/store/database.ts';
import { WriteAheadLog } from '../../../src/store/write-ahead-log.ts';
import { temporaryDatabase } from '../../support/vault.ts';

/** Longer than any test waits: what ends sooner was let go by the reader. */
const lockWaitMs = 20_000;
const longText = 'x'.repeat(5 * 1024 * 1024);

/** A file with a long log, of which another connection still reads. */
async function open() {
  const { url } = await temporaryDatabase({ withTable: false });
  const path = url.slice('file:'.length);
  const reader = new NativeDatabase(path);
  reader.exec('PRAGMA journal_mode = WAL');
  reader.exec('PRAGMA wal_autocheckpoint = 0');
  reader.exec('CREATE TABLE t (b text)');
  reader.prepare('INSERT INTO t VALUES (?)').run(longText);
  reader.exec('BEGIN');
  const rows = () => reader.prepare('SELECT 1 FROM t').raw().all().length;
  expect(rows()).toBe(1);
  const logBytes = () => statSync(`${path}-wal`).size;
  expect(logBytes()).toBeGreaterThan(longText.length);
  return { url, path, reader, rows, logBytes };
}

describe('a checkpoint that another reader holds up', () => {
  it('keeps no other work waiting but writes, which come as soon as it has ended', async () => {
    const { url, path, reader, logBytes } = await open();
    const database = new Database({ url });
    const log = new WriteAheadLog(path, lockWaitMs);
    log.checkpointWhereLong();
    let logBytesAtWrite: number | null = null;
    const written = log.inTurn(async () => {
      logBytesAtWrite = logBytes();
    }, Number.POSITIVE_INFINITY);
    await sleep(100);
    expect(await database.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 1n }]);
    expect(logBytesAtWrite).toBe(null);
    reader.exec('COMMIT');
    await written;
    expect(logBytesAtWrite).toBe(0);
    await log.close();
    await database.close();
    reader.close();
  });

  it('keeps a write waiting for no longer than it may, and then nothing of it is done', async () => {
    const { path, reader } = await open();
    const log = new WriteAheadLog(path, lockWaitMs);
    log.checkpointWhereLong();
    let isWritten = false;
    const write = async () => {
      isWritten = true;
    };
    await expect(log.inTurn(write, performance.now() + 20)).rejects.toThrow('begun before it');
    reader.exec('COMMIT');
    await log.close();
    expect(isWritten).toBe(false);
    reader.close();
  });

  it('is waited for by whoever closes the database', async () => {
    const { path, reader, logBytes } = await open();
    const log = new WriteAheadLog(path, lockWaitMs);
    log.checkpointWhereLong();
    let isClosed = false;
    const closed = log.close().then(() => {
      isClosed = true;
    });
    await sleep(100);
    expect(isClosed).toBe(false);
    reader.exec('COMMIT');
    await closed;
    expect(logBytes()).toBe(0);
    reader.close();
  });
});

describe('a database whose log is long', () => {
  it('checkpoints it after a write, also after one beside, and loses nothing of it', async () => {
    for (const isBeside of [true, false]) {
      const { url, reader, logBytes, rows } = await open();
      reader.exec('COMMIT');
      const database = new Database({ url });
      const insert = { sql: "INSERT INTO t VALUES ('short')" };
      await (isBeside ? database.writeBeside([insert]) : database.write([insert]));
      await database.close();
      expect(logBytes()).toBe(0);
      expect(rows()).toBe(2);
      reader.close();
    }
  });

  it('finds it behind a symbolic link too, which may name a file that comes with the start', async () => {
    const { path, reader, logBytes, rows } = await open();
    reader.exec('COMMIT');
    symlinkSync(path, `${path}-link`);
    const database = new Database({ url: `file:${path}-link` });
    await database.write([{ sql: "INSERT INTO t VALUES ('short')" }]);
    await database.close();
    expect(logBytes()).toBe(0);
    expect(rows()).toBe(2);
    reader.close();
    symlinkSync(`${path}-new`, `${path}-new-link`);
    const anew = new Database({ url: `file:${path}-new-link` });
    await anew.write([{ sql: 'CREATE TABLE t (b text)' }]);
    await anew.close();
    expect(statSync(`${path}-new`).size).toBeGreaterThan(0);
  });

  it('goes on where it cannot be checkpointed, and does it after a later write', async () => {
    const { url, reader, logBytes, rows } = await open();
    const database = new Database({ url });
    for (let times = 0; times < 5; times += 1)
      expect(await database.write([{ sql: "INSERT INTO t VALUES ('short')" }])).toEqual([1]);
    expect(logBytes()).toBeGreaterThan(longText.length);
    reader.exec('COMMIT');
    await database.write([{ sql: "INSERT INTO t VALUES ('last')" }]);
    await database.close();
    // Not always empty: the checkpoint after the write before may have come before this one.
    expect(logBytes()).toBeLessThan(10_000);
    expect(rows()).toBe(7);
    reader.close();
  });
});

describe('a checkpoint that fails', () => {
  it('is counted, while one that a reader holds up is not', async () => {
    const { path, reader, logBytes } = await open();
    let failures = 0;
    const log = new WriteAheadLog(path, 20, () => {
      failures += 1;
    });
    log.checkpointWhereLong();
    await log.settled();
    expect([failures, logBytes() > longText.length]).toEqual([0, true]);
    reader.exec('COMMIT');
    await log.close();
    renameSync(path, `${path}.away`);
    log.checkpointWhereLong();
    await log.close();
    renameSync(`${path}.away`, path);
    expect(failures).toBe(1);
    reader.close();
  });
});
