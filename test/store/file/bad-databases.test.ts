/** A database that cannot be used is named as what it is, at start where it can be known then, and never half-used. */

import { chmodSync, chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { StorageUnavailableError } from '../../../src/errors.ts';
import { Database } from '../../../src/store/database.ts';
import { migrate } from '../../../src/store/migrations.ts';
import { runServer } from '../../support/process.ts';
import { startSqld } from '../../support/sqld.ts';
import { environmentFor, keyA, temporaryDatabase, temporaryFolder } from '../../support/vault.ts';

const nobody = 65_534;

async function refusalOf(url: string, settings = {}): Promise<string> {
  const { code, stderr, stdout } = await runServer(environmentFor(url, { NODE_ENV: 'production', ...settings }));
  expect([code, stdout.includes('listening')]).toEqual([1, false]);
  return stderr;
}

describe('a start is refused, with the reason, on', () => {
  it('a file that is no database', async () => {
    const path = join(temporaryFolder(), 'vault.db');
    writeFileSync(path, 'This is text, and long enough to be taken for a header of a database.'.repeat(200));
    expect(await refusalOf(`file:${path}`)).toContain('the file is damaged, or no database (SQLITE_NOTADB)');
  });

  it('a damaged database file', async () => {
    const path = join(temporaryFolder(), 'vault.db');
    const database = new Database({ url: `file:${path}` });
    await migrate(database);
    await database.close();
    const header = Buffer.alloc(4096, 0xff);
    header.write('SQLite format 3\0', 0, 'latin1');
    writeFileSync(path, header);
    expect(await refusalOf(`file:${path}`)).toMatch(/the file is damaged, or no database \(SQLITE_(NOTADB|CORRUPT)\)/);
  });

  it('a directory, a folder that is not there, and no file at all', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'directory'));
    expect(await refusalOf(`file:${folder}/directory`)).toContain('DATABASE_URL names a directory');
    expect(await refusalOf(`file:${folder}/none/vault.db`)).toContain(
      'DATABASE_URL names a file in a directory that does not exist',
    );
    expect(await refusalOf('file::memory:')).toContain('DATABASE_URL must name a file');
  });

  it('a file that may not be written', async () => {
    const { url, gateway } = await temporaryDatabase();
    gateway.close();
    const path = url.slice('file:'.length);
    const isRoot = process.getuid?.() === 0;
    if (isRoot) chownSync(path, 0, 0);
    chmodSync(join(path, '..'), 0o555);
    chmodSync(path, 0o444);
    const { code, stderr } = await runServer(environmentFor(url, { NODE_ENV: 'production' }), '/', isRoot ? nobody : undefined);
    chmodSync(join(path, '..'), 0o755);
    expect(code).toBe(1);
    expect(stderr).toContain('the file or its folder is read-only (SQLITE_READONLY)');
  });

  it('a web server that is no database', async () => {
    const server = createServer((_request, response) => response.writeHead(404).end('nothing here'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    expect(await refusalOf(`http://127.0.0.1:${port}`)).toContain(
      'DATABASE_URL does not name a libSQL server: it answers with status 404',
    );
  });

  it('a server that refuses the token, and never repeats the token', async () => {
    const { generateKeyPairSync } = await import('node:crypto');
    const { x = '' } = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' });
    const keyFile = join(temporaryFolder(), 'jwt.key');
    writeFileSync(keyFile, x);
    const server = await startSqld(['--auth-jwt-key-file', keyFile]);
    for (const settings of [{}, { DATABASE_AUTH_TOKEN: 'sample-token-that-is-wrong' }]) {
      const stderr = await refusalOf(server.url, settings);
      expect(stderr).toContain('The database refuses DATABASE_AUTH_TOKEN');
      expect(stderr).not.toContain('sample-token');
    }
  });

  it('an embedded replica, or a setting that asks for one', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'vault.db-info'), '{}');
    expect(await refusalOf(`file:${folder}/vault.db`)).toContain('embedded replicas are not supported');
    const { url } = await temporaryDatabase();
    expect(await refusalOf(url, { DATABASE_SYNC_URL: 'http://127.0.0.1:9' })).toContain(
      'DATABASE_SYNC_URL is set: embedded replicas',
    );
  });
});

describe('a disk that is full', () => {
  it('is reported as such, changes nothing, and is over once there is room', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const database = new Database({ url });
    await database.useWriteAheadLog();
    await migrate(database);
    const fill = { sql: "UPDATE api_keys SET name = hex(randomblob(200000)) WHERE id = 'a'" };
    await database.read('PRAGMA max_page_count = 1');
    const error = await database.write([fill]).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(StorageUnavailableError);
    expect(String(error)).toContain('the disk is full (SQLITE_FULL)');
    expect((await gateway.rows())[0]?.name).toBe('a');
    await database.read('PRAGMA max_page_count = 100000');
    expect(await database.write([fill])).toEqual([1]);
    await database.close();
  });
});
