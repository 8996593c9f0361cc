/** Snapshots from the command line: to a file and back, and proved without a database. */

import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { connectorTableSql } from '../support/gateway.ts';
import { runCli, runCommand } from '../support/process.ts';
import { bytesOf, takeSnapshot } from '../support/snapshot.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function start() {
  const { url, gateway: database } = await temporaryDatabase();
  const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-value' });
  await database.insert(keyB, { id: 'under-the-next' });
  const folder = temporaryFolder();
  const environment = { NODE_ENV: 'production', DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB };
  return { url, database, vault, folder, file: join(folder, 'vault.ndjson'), environment };
}

/** `$0` is Node. */
function runShell(script: string, environment: Record<string, string>, ...args: readonly string[]) {
  return runCommand('/bin/sh', ['-c', script, process.execPath, ...args], environment, root);
}

/** No database, and no setting that names one. */
const offline = { NODE_ENV: 'production', PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_OLD: keyB };

describe('key:snapshot', () => {
  it('writes a file of its owner, and the same to standard output', async () => {
    const { environment, file } = await start();
    const { code, stdout, stderr } = await runCli(['snapshot', '--out', file], environment);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('[snapshot] api_keys: 2 row(s)\n');
    expect(stdout).toContain(`[snapshot] needs: ${[keyIdA, keyIdB].sort().join(', ')}\n`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const piped = await runCli(['snapshot'], environment);
    const rowsOf = (text: string): string[] => text.split('\n').slice(1, -2);
    expect(rowsOf(piped.stdout)).toEqual(rowsOf(readFileSync(file, 'utf8')));
  });

  it('warns, as verify does, of encrypted rows that its own settings do not cover', async () => {
    const { environment, database, file } = await start();
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'one' }, 'context_connector_credentials');
    for (const command of [['snapshot', '--out', file], ['verify']]) {
      const { code, stderr } = await runCli(command, environment);
      expect([code, stderr]).toEqual([0, expect.stringMatching(/^warning: context_connector_credentials holds encrypted rows/)]);
    }
    const covered = { ...environment, VAULT_ENCRYPTED_TABLES: 'api_keys,context_connector_credentials' };
    expect(await runCli(['snapshot', '--out', file], covered)).toMatchObject({ code: 0, stderr: '' });
  });

  it('replaces an older snapshot or an empty file, and nothing else: neither the database nor a file of keys nor a pipe', async () => {
    const { environment, database, file, folder, url } = await start();
    const snapshotTo = (path: string) => runCli(['snapshot', '--out', path], environment);
    writeFileSync(file, '');
    expect([(await snapshotTo(file)).code, (await snapshotTo(file)).code]).toEqual([0, 0]);
    const keys = join(folder, 'keys');
    writeFileSync(keys, 'sample of a file of keys');
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    for (const path of [url.slice('file:'.length), keys, pipe, folder]) {
      const { code, stderr } = await snapshotTo(path);
      expect([code, stderr], path).toEqual([2, expect.stringContaining('exists and is not a snapshot')]);
    }
    expect(readFileSync(keys, 'utf8')).toBe('sample of a file of keys');
    expect(statSync(pipe).isFIFO()).toBe(true);
    const taken = (await database.rows('vault_audit')).filter(({ line }) => String(line).includes('snapshot.take'));
    expect([taken.length, (await database.rows()).length]).toEqual([2, 2]);
    expect((await runCli(['verify'], environment)).code).toBe(0);
  });

  it('to a standard output that does not take it fails', async () => {
    const { environment } = await start();
    const { code, stderr } = await runShell('"$0" dist/cli.js snapshot > /dev/full', environment);
    expect([code, stderr]).toEqual([1, 'error: Standard output has not taken all of the snapshot (ENOSPC).\n']);
  });

  it('says so, and exits with 6, where rows do not open', async () => {
    const { environment, database, file } = await start();
    await database.insert(keyC, { id: 'foreign' });
    const { code, stderr } = await runCli(['snapshot', '--out', file], environment);
    expect([code, stderr]).toEqual([6, expect.stringContaining('1 row(s) do not open')]);
    const checked = await runCli(['snapshot', '--check', file], offline);
    expect([checked.code, checked.stderr]).toEqual([6, expect.stringContaining('1 row(s) did not open')]);
    const asJson = await runCli(['snapshot', '--check', file, '--json'], offline);
    expect([asJson.code, JSON.parse(asJson.stdout)]).toEqual([6, expect.objectContaining({ rows: 3, rows_unopened: 1 })]);
  });

  it('--check proves a file without a database, and names the keys that it needs', async () => {
    const { environment, file, folder } = await start();
    await runCli(['snapshot', '--out', file], environment);
    const { code, stdout, stderr } = await runCli(['snapshot', '--check', file], offline, folder);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain(`[snapshot] whole and authentic under ${keyIdA}: 2 of 2 row(s) open.\n`);
    for (const keyId of [keyIdA, keyIdB]) expect(stdout).toContain(`[snapshot] needs ${keyId}: 1 row(s)\n`);
    for (const secret of [keyA, keyB, 'sample-value']) expect(stdout).not.toContain(secret);
  });

  it('--check exits with 7 and says why where a file is edited, truncated, or its keys are not there', async () => {
    const { environment, file, folder } = await start();
    await runCli(['snapshot', '--out', file], environment);
    const whole = readFileSync(file, 'utf8');
    const check = async (contents: string, keys: Record<string, string>) => {
      writeFileSync(file, contents);
      return runCli(['snapshot', '--check', file], { NODE_ENV: 'production', ...keys }, folder);
    };
    const both = { PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB };
    for (const [contents, keys, reason] of [
      [whole.replace('openai', 'openay'), both, 'edited'],
      [whole.slice(0, -200), both, 'trailer'],
      [whole, { PROVARA_MASTER_KEY: keyB }, `master key ${keyIdA}, which is not in the keyring`],
      [whole, { PROVARA_MASTER_KEY: keyA }, keyIdB],
    ] as const) {
      const { code, stderr } = await check(contents, keys);
      expect([code, stderr]).toEqual([7, expect.stringContaining(reason)]);
    }
  });
});

describe('key:restore', () => {
  it('puts a file back, and a pipe', async () => {
    const { environment, database, file } = await start();
    await runCli(['snapshot', '--out', file], environment);
    const before = await bytesOf(database, 'api_keys');
    await database.run('DELETE FROM api_keys');
    const restored = await runCli(['restore', file], environment);
    expect(restored).toEqual({ code: 0, stdout: '[restore] restored 2 row(s), kept 0.\n', stderr: '' });
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
    await database.run('DELETE FROM api_keys');
    const piped = await runShell('"$0" dist/cli.js restore - < "$1"', environment, file);
    expect(piped).toEqual({ code: 0, stdout: '[restore] restored 2 row(s), kept 0.\n', stderr: '' });
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
  });

  it('leaves what it has written in the file itself, for whoever copies that without its log', async () => {
    const { vault, environment, file } = await start();
    writeFileSync(file, await takeSnapshot(vault));
    const { url } = await temporaryDatabase();
    const beside = new Database({ url });
    await beside.useWriteAheadLog();
    expect((await runCli(['restore', file], { ...environment, DATABASE_URL: url })).code).toBe(0);
    const path = url.slice('file:'.length);
    copyFileSync(path, `${path}-copy`);
    const copy = new Database({ url: `file:${path}-copy` });
    expect(await copy.read('SELECT count(*) AS rows FROM api_keys')).toEqual([{ rows: 2n }]);
    for (const database of [beside, copy]) await database.close();
  });

  it('exits with 6 where it has left rows that open with none of the keys', async () => {
    const { environment, database, file } = await start();
    await runCli(['snapshot', '--out', file], environment);
    const [row] = await database.rows();
    await database.run('UPDATE vault_master_keys SET key_id = ? WHERE key_id = ?', [keyIdC, keyIdB]);
    await database.update(keyC, String(row?.id), 'sample-newer');
    const { code, stdout, stderr } = await runCli(['restore', file], environment);
    expect([code, stdout]).toEqual([6, '[restore] restored 0 row(s), kept 2.\n']);
    expect(stderr).toContain('1 row(s) of the tables do not open and were left');
    const asJson = await runCli(['restore', file, '--json'], environment);
    expect([asJson.code, JSON.parse(asJson.stdout)]).toEqual([6, { restored: 0, kept: 2, left: 1, before: null }]);
  });

  it('fills a database that the vault has never served, and makes the snapshot’s key the active one', async () => {
    const { vault, environment, file } = await start();
    writeFileSync(file, await takeSnapshot(vault));
    const fresh = await temporaryDatabase();
    const { code, stderr } = await runCli(['restore', file], { ...environment, DATABASE_URL: fresh.url });
    expect([code, stderr]).toEqual([0, '']);
    expect((await fresh.gateway.rows('vault_active_key'))[0]?.key_id).toBe(keyIdA);
    const again = await startVault(fresh.url);
    expect((await again.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-value');
  });

  it('of what is refused leaves tables that the vault has never served as they were', async () => {
    const { environment, database, folder, file } = await start();
    const { url, gateway } = await temporaryDatabase();
    const path = url.slice('file:'.length);
    gateway.close();
    const before = readFileSync(path);
    const none = join(folder, 'none.ndjson');
    writeFileSync(none, 'no snapshot\n');
    await database.run(connectorTableSql);
    const both = { ...environment, VAULT_ENCRYPTED_TABLES: 'api_keys,context_connector_credentials' };
    expect((await runCli(['snapshot', '--out', file], both)).code).toBe(0);
    for (const [refused, reason] of [
      [none, 'The snapshot is refused'],
      [file, 'VAULT_ENCRYPTED_TABLES does not name'],
    ] as const) {
      const { code, stderr } = await runCli(['restore', refused], { ...environment, DATABASE_URL: url });
      expect([code, stderr]).toEqual([7, expect.stringContaining(reason)]);
    }
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('names what cannot be read, with exit code 2', async () => {
    const { environment, folder } = await start();
    const audit = ['audit', 'verify', '--no-database', '--file'];
    for (const args of [['restore'], ['snapshot', '--check'], audit]) {
      for (const [path, problem] of [
        [folder, 'is a folder'],
        [join(folder, 'none'), 'cannot be read (ENOENT)'],
      ] as const) {
        const { code, stderr } = await runCli([...args, path], environment);
        expect([code, stderr], args.join(' ')).toEqual([2, expect.stringContaining(problem)]);
      }
    }
  });

  it('exits with 7 where the snapshot is refused, and with 2 where the mode cannot be used', async () => {
    const { environment, database, file } = await start();
    await runCli(['snapshot', '--out', file], environment);
    await database.run('DELETE FROM api_keys');
    const replaced = await runCli(['restore', '--mode', 'replace', file], environment);
    expect([replaced.code, replaced.stderr]).toEqual([2, expect.stringContaining('VAULT_SNAPSHOT_DIR')]);
    expect((await runCli(['restore', '--mode', 'append', file], environment)).code).toBe(2);
    expect((await runCli(['restore', join(file, 'nothing')], environment)).code).toBe(2);
    writeFileSync(file, readFileSync(file, 'utf8').slice(0, -1));
    expect((await runCli(['restore', file], environment)).code).toBe(7);
    expect(await database.rows()).toEqual([]);
  });

  it('with --mode replace says where the state before is kept', async () => {
    const { environment, database, file, folder } = await start();
    await runCli(['snapshot', '--out', file], environment);
    await database.insert(keyA, { id: 'newer' });
    const { code, stdout } = await runCli(['restore', '--mode', 'replace', file], { ...environment, VAULT_SNAPSHOT_DIR: folder });
    expect(code).toBe(0);
    const [, path = ''] = /the state before is in (\S+) \(sha256 [0-9a-f]{64}\)/.exec(stdout) ?? [];
    expect(readFileSync(path, 'utf8')).toContain('"newer"');
    expect(await database.rows()).toHaveLength(2);
  });
});
