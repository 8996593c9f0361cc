/** A connection to a file keeps its statements, and nothing of one call, of a failure or of an older schema is in the next. */

import { copyFileSync, existsSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import NativeDatabase from 'libsql';
import PromiseDatabase from 'libsql/promise';
import { describe, expect, it, vi } from 'vitest';
import { StorageUnavailableError } from '../../../src/errors.ts';
import { Database } from '../../../src/store/database.ts';
import { FileConnection } from '../../../src/store/file-connection.ts';
import { temporaryDatabase } from '../../support/vault.ts';

/** When an attempt is to be given up. */
const never = performance.now() + 3_600_000;

async function open() {
  const { url, gateway } = await temporaryDatabase({ withTable: false });
  await gateway.run('CREATE TABLE t (a integer PRIMARY KEY, b text NOT NULL)');
  const connection = new FileConnection(url.slice('file:'.length), 20);
  const rows = async () => (await connection.execute({ sql: 'SELECT b FROM t ORDER BY a' })).rows.map(({ b }) => b);
  return { url, gateway, connection, rows };
}

/** In a file as it is, with what lies in a log beside it. */
async function rowsIn(path: string): Promise<unknown> {
  const connection = new FileConnection(path, 20);
  const { rows } = await connection.execute({ sql: 'SELECT count(*) AS rows FROM t' });
  await connection.close();
  return rows[0]?.rows;
}

describe('a statement that is kept', () => {
  it('takes as many arguments each time, so that none is another call’s', async () => {
    const { connection } = await open();
    const sql = 'SELECT ?1 AS one, ?2 AS two';
    expect((await connection.execute({ sql, args: ['a', 'b'] })).rows).toEqual([{ one: 'a', two: 'b' }]);
    await expect(connection.execute({ sql, args: ['c'] })).rejects.toThrow('takes 2 argument(s), not 1');
    expect((await connection.execute({ sql, args: ['c', null] })).rows).toEqual([{ one: 'c', two: null }]);
  });

  it('works again after it has failed, and its batch has left nothing behind', async () => {
    const { connection, rows } = await open();
    const insert = (b: string | null) => ({ sql: 'INSERT INTO t (b) VALUES (?)', args: [b] });
    await connection.batch([insert('one')], never);
    for (let attempt = 0; attempt < 3; attempt += 1) {
      await expect(connection.batch([insert('lost'), insert(null)], never)).rejects.toMatchObject({
        code: 'SQLITE_CONSTRAINT',
        statementIndex: 1,
      });
    }
    await connection.batch([insert('two')], never);
    expect(await rows()).toEqual(['one', 'two']);
  });

  it('sees what another program has committed, and a table that it has made anew', async () => {
    const { gateway, rows } = await open();
    expect(await rows()).toEqual([]);
    await gateway.run("INSERT INTO t (b) VALUES ('theirs')");
    expect(await rows()).toEqual(['theirs']);
    await gateway.run('DROP TABLE t');
    await expect(rows()).rejects.toThrow('no such table');
    await gateway.run('CREATE TABLE t (b text, a integer)');
    await gateway.run("INSERT INTO t (b) VALUES ('anew')");
    expect(await rows()).toEqual(['anew']);
  });
});

describe('a commit, by whichever connection', () => {
  const ways = ['batch', 'batchBeside'] as const;

  it('waits for the disk, so that none is in the log which a later one would be lost behind', async () => {
    const { connection, rows } = await open();
    await connection.execute({ sql: 'PRAGMA journal_mode = WAL' });
    const noteLevel = { sql: 'INSERT INTO t (b) SELECT synchronous FROM pragma_synchronous' };
    for (let opened = 0; opened < 2; opened += 1) {
      for (const way of ways) await connection[way]([noteLevel], never);
      connection.reconnect();
    }
    expect(await rows()).toEqual(['2', '2', '2', '2']);
    await connection.close();
  });

  it('never checkpoints the log, which another process might be writing to just then', async () => {
    for (const way of ways) {
      const { url, connection } = await open();
      await connection.execute({ sql: 'PRAGMA journal_mode = WAL' });
      // Over a thousand pages, after which SQLite would, and less than the vault lets be.
      await connection[way]([{ sql: 'INSERT INTO t (b) VALUES (zeroblob(4110000))' }], never);
      expect(statSync(url.slice('file:'.length)).size).toBeLessThan(100_000);
      await connection.close();
    }
  });
});

describe('a batch that is committed beside', () => {
  const insert = (b: string | null) => ({ sql: 'INSERT INTO t (b) VALUES (?)', args: [b] });

  it('keeps no read waiting, and writes in turn for no longer than they may', async () => {
    const { url, gateway, connection: first } = await open();
    await first.execute({ sql: 'PRAGMA journal_mode = WAL' });
    await first.close();
    // Longer than the test waits.
    const connection = new FileConnection(url.slice('file:'.length), 20_000);
    const lock = await gateway.client.transaction('write');
    const noted = connection.batchBeside([insert('noted')], never);
    const soon = () => performance.now() + 20;
    await expect(connection.batch([insert('lost')], soon())).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    await expect(connection.batchBeside([insert('lost')], soon())).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    const written = connection.batch([insert('written')], never);
    const select = { sql: 'SELECT b FROM t ORDER BY a' };
    expect((await connection.execute(select)).rows).toEqual([]);
    await lock.rollback();
    await Promise.all([noted, written]);
    expect((await connection.execute(select)).rows).toEqual([{ b: 'noted' }, { b: 'written' }]);
    await connection.close();
  });

  it('is given up where it takes too long, and is waited for by what comes after it', async () => {
    const { url, gateway } = await open();
    const connection = new FileConnection(url.slice('file:'.length), 20_000);
    const lock = await gateway.client.transaction('write');
    await expect(connection.batchBeside([insert('late')], performance.now() + 20)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    const written = connection.batch([insert('written')], never);
    await lock.rollback();
    await written;
    expect((await connection.execute({ sql: 'SELECT b FROM t ORDER BY a' })).rows).toEqual([{ b: 'late' }, { b: 'written' }]);
    await connection.close();
  });

  it('leaves nothing behind where it fails, in the middle or at its start, nor keeps the lock', async () => {
    const { connection, gateway, rows } = await open();
    const failing = connection.batchBeside([insert('lost'), insert(null)], never);
    await expect(failing).rejects.toMatchObject({ code: 'SQLITE_CONSTRAINT' });
    await expect(connection.batchBeside([{ sql: 'INSERT INTO none VALUES (1)' }], never)).rejects.toThrow('no such table');
    const lock = await gateway.client.transaction('write');
    await expect(connection.batchBeside([insert('lost')], never)).rejects.toMatchObject({ code: 'SQLITE_BUSY' });
    await lock.rollback();
    await connection.batch([insert('one')], never);
    await connection.batchBeside([insert('two')], never);
    await gateway.run("INSERT INTO t (b) VALUES ('theirs')");
    expect(await rows()).toEqual(['one', 'two', 'theirs']);
    await connection.close();
  });
});

describe('a batch that is committed beside, and whose sync fails', () => {
  it('is said to have failed, leaves nothing behind, and keeps neither the lock nor its connection', async () => {
    const { url } = await open();
    const database = new Database({ url });
    await database.useWriteAheadLog();
    const insert = (b: string) => [{ sql: 'INSERT INTO t (b) VALUES (?)', args: [b] }];
    const used: unknown[] = [];
    const exec = PromiseDatabase.prototype.exec;
    const failing = vi.spyOn(PromiseDatabase.prototype, 'exec').mockImplementation(async function (this: PromiseDatabase, sql) {
      if (sql === 'COMMIT' && used.push(this) === 1)
        throw new NativeDatabase.SqliteError('disk I/O error', 'SQLITE_IOERR_FSYNC', 1034);
      return exec.call(this, sql);
    });
    await expect(database.writeBeside(insert('lost'))).rejects.toThrow(StorageUnavailableError);
    expect(await database.write(insert('one'))).toEqual([1]);
    await database.writeBeside(insert('two'));
    failing.mockRestore();
    expect(used[0]).not.toBe(used[1]);
    expect(await database.read('SELECT b FROM t ORDER BY a')).toEqual([{ b: 'one' }, { b: 'two' }]);
    await database.close();
  });
});

describe('writes to a file whose lock another program holds', () => {
  const writes = 20;

  async function waiting() {
    const { url, gateway } = await open();
    const database = new Database({ url });
    await database.useWriteAheadLog();
    const lock = await gateway.client.transaction('write');
    const results = Array.from({ length: writes }, (_, index) =>
      database.write([{ sql: 'INSERT INTO t (b) VALUES (?)', args: [`${index}`] }]),
    );
    return { database, lock, settled: Promise.allSettled(results) };
  }

  it('try for it one at a time, since each try keeps reads waiting, and are carried out in their order once it is free', async () => {
    const { database, lock, settled } = await waiting();
    await expect.poll(() => database.counters.retries).toBeGreaterThan(3);
    await lock.rollback();
    expect(new Set((await settled).map(({ status }) => status))).toEqual(new Set(['fulfilled']));
    expect(database.counters.retries).toBeLessThan(writes);
    const rows = await database.read('SELECT b FROM t ORDER BY a');
    expect(rows.map(({ b }) => Number(b))).toEqual(Array.from({ length: writes }, (_, index) => index));
    await database.close();
  });

  it('are all given up where it stays taken, those without a try too, and none of them is carried out later', async () => {
    const { database, lock, settled } = await waiting();
    for (const result of await settled) {
      expect(result).toMatchObject({ status: 'rejected', reason: expect.any(StorageUnavailableError) });
    }
    expect(database.counters).toMatchObject({ failures: writes, retries: expect.toSatisfy((retries) => retries < 2 * writes) });
    await lock.rollback();
    expect(await database.write([{ sql: "INSERT INTO t (b) VALUES ('next')" }])).toEqual([1]);
    expect(await database.read('SELECT b FROM t')).toEqual([{ b: 'next' }]);
    await database.close();
  });
});

describe('a file that is away for a moment', () => {
  it('is read on, and written to once it is back', async () => {
    const { url } = await open();
    const database = new Database({ url });
    await database.useWriteAheadLog();
    const write = () => database.write([{ sql: "INSERT INTO t (b) VALUES ('ours')" }]);
    expect(await write()).toEqual([1]);
    const folder = dirname(url.slice('file:'.length));
    renameSync(folder, `${folder}-away`);
    const writing = write();
    expect(await database.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 1n }]);
    await sleep(100);
    renameSync(`${folder}-away`, folder);
    expect(await writing).toEqual([1]);
    expect(await database.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 2n }]);
    await database.close();
  });

  it.each([
    ['comes back', true],
    ['stays away', false],
  ])('just as it is written to is not said to be without that (%s)', async (_what, isBack) => {
    const { url, connection } = await open();
    const path = url.slice('file:'.length);
    const database = new Database({ url });
    await database.useWriteAheadLog();
    const leaving = {
      get sql(): string {
        renameSync(path, `${path}-away`);
        if (isBack) setTimeout(() => renameSync(`${path}-away`, path), 50);
        return "INSERT INTO t (b) VALUES ('ours')";
      },
    };
    const written = await database.write([leaving]).catch((error: unknown) => error);
    if (isBack) expect(written).toEqual([1]);
    else expect(written).toMatchObject({ code: 'storage_unavailable', details: { may_be_done: true } });
    if (!isBack) renameSync(`${path}-away`, path);
    expect(await database.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 1n }]);
    await database.close();
    await connection.close();
  });

  it('keeps all that it holds where a stop comes just then', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    const database = new Database({ url });
    await database.useWriteAheadLog();
    await database.write([{ sql: "INSERT INTO t (b) VALUES ('ours')" }]);
    renameSync(path, `${path}-away`);
    await database.checkpoint();
    await database.close();
    expect(existsSync(path)).toBe(false);
    renameSync(`${path}-away`, path);
    const again = new Database({ url });
    expect(await again.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 1n }]);
    await again.close();
  });

  it('is not made anew, empty, by a connection that begins anew', async () => {
    const { url, connection, rows } = await open();
    const path = url.slice('file:'.length);
    renameSync(path, `${path}-away`);
    connection.reconnect();
    await expect(rows()).rejects.toThrow('The file is not there');
    expect(existsSync(path)).toBe(false);
    renameSync(`${path}-away`, path);
    expect(await rows()).toEqual([]);
    await connection.close();
  });

  it('just when another writer holds its lock, fails what is asked of it then where it does not come back, and nothing after', async () => {
    const { url, gateway } = await open();
    const database = new Database({ url });
    const write = () => database.write([{ sql: "INSERT INTO t (b) VALUES ('ours')" }]);
    expect(await write()).toEqual([1]);
    const lock = await gateway.client.transaction('write');
    await lock.execute("INSERT INTO t (b) VALUES ('theirs')");
    const path = url.slice('file:'.length);
    const failing = expect(write()).rejects.toThrow('The database could not be used');
    renameSync(path, `${path}-away`);
    await failing;
    renameSync(`${path}-away`, path);
    await lock.rollback();
    expect(await write()).toEqual([1]);
    expect(await database.read('SELECT count(*) AS rows FROM t')).toEqual([{ rows: 2n }]);
    await database.close();
  });
});

describe('a file that another takes the place of, under an open connection', () => {
  it('takes no write that would go with it, nor answers what nobody can look up any more', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    const database = new Database({ url });
    await database.useWriteAheadLog();
    const write = () => database.write([{ sql: "INSERT INTO t (b) VALUES ('ours')" }]);
    expect(await write()).toEqual([1]);
    renameSync(`${path}-backup`, path);
    await expect(write()).rejects.toThrow('another file has taken its place');
    await expect(database.read('SELECT 1')).rejects.toThrow(StorageUnavailableError);
    await database.close();
  });

  it('acknowledges no write that was committed to it while that happened', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    const connection = new FileConnection(path, 20);
    await connection.execute({ sql: 'PRAGMA journal_mode = WAL' });
    const replacing = {
      get sql(): string {
        renameSync(`${path}-backup`, path);
        return "INSERT INTO t (b) VALUES ('ours')";
      },
    };
    await expect(connection.batch([replacing], never)).rejects.toMatchObject({
      message: expect.stringContaining('another file has taken its place'),
      details: { may_be_done: true },
    });
    await connection.close();
  });

  it('is whole where it has been moved to, and leaves no log of its own beside the other', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    const database = new Database({ url });
    await database.useWriteAheadLog();
    for (const value of ['one', 'two']) await database.write([{ sql: 'INSERT INTO t (b) VALUES (?)', args: [value] }]);
    renameSync(path, `${path}-aside`);
    renameSync(`${path}-backup`, path);
    expect(statSync(`${path}-wal`).size).toBeGreaterThan(0);
    await expect(database.read('SELECT 1')).rejects.toThrow('another file has taken its place');
    await database.close();
    expect(statSync(`${path}-wal`).size).toBe(0);
    expect([await rowsIn(`${path}-aside`), await rowsIn(path)]).toEqual([2n, 0n]);
  });

  it('leaves alone, from then on, what others write to the one that has come', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    const database = new Database({ url });
    await database.useWriteAheadLog();
    await database.write([{ sql: "INSERT INTO t (b) VALUES ('ours')" }]);
    renameSync(path, `${path}-aside`);
    renameSync(`${path}-backup`, path);
    await expect(database.read('SELECT 1')).rejects.toThrow('another file has taken its place');
    const other = new NativeDatabase(path);
    other.exec("PRAGMA journal_mode = WAL; INSERT INTO t (b) VALUES ('theirs'), ('theirs')");
    await expect(database.read('SELECT 1')).rejects.toThrow('another file has taken its place');
    // Nor is the old one opened beside the other's log, where it is put back.
    renameSync(path, `${path}-other`);
    renameSync(`${path}-aside`, path);
    await expect(database.read('SELECT 1')).rejects.toThrow('another file has taken its place');
    renameSync(path, `${path}-aside`);
    renameSync(`${path}-other`, path);
    await database.checkpoint();
    await database.close();
    other.close();
    expect([await rowsIn(`${path}-aside`), await rowsIn(path)]).toEqual([1n, 2n]);
  });

  it('takes no write beside the thread that answers either', async () => {
    const { url } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    const connection = new FileConnection(path, 20);
    const insert = { sql: "INSERT INTO t (b) VALUES ('ours')" };
    renameSync(`${path}-backup`, path);
    await expect(connection.batchBeside([insert], never)).rejects.toThrow('Another file has taken its place');
    await connection.close();
    expect(await rowsIn(path)).toBe(0n);
    await expect(connection.batchBeside([insert], never)).rejects.toThrow('The connection is closed');
  });

  it('nor is the other written to, by a connection that begins anew', async () => {
    const { url, connection, rows } = await open();
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-backup`);
    connection.reconnect();
    renameSync(`${path}-backup`, path);
    await expect(connection.batch([{ sql: "INSERT INTO t (b) VALUES ('ours')" }], never)).rejects.toThrow('Another file');
    await expect(rows()).rejects.toThrow('Another file');
    const other = new FileConnection(path, 20);
    expect((await other.execute({ sql: 'SELECT b FROM t' })).rows).toEqual([]);
    for (const each of [connection, other]) each.close();
  });
});
