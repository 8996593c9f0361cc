/** The command line as operators and their scripts know it: flags, output lines, exit codes, and what it leaves untouched. */

import { createHash } from 'node:crypto';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { connectorTableSql } from '../support/gateway.ts';
import { runCli, runCommand, startCli, startServer } from '../support/process.ts';
import {
  adminToken,
  caller,
  environmentFor,
  gatewayToken,
  keyA,
  keyB,
  keyC,
  keyIdA,
  keyIdB,
  keyIdC,
  temporaryDatabase,
  temporaryFolder,
} from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const flags = ['--old', keyA, '--new', keyB];

/** `$0` is Node. */
function runShell(script: string, environment: Record<string, string> = {}) {
  return runCommand('/bin/sh', ['-c', script, process.execPath], environment, root);
}

async function tableOf(rows: number) {
  const database = await temporaryDatabase();
  await database.gateway.fill(keyA, rows);
  return {
    ...database,
    path: database.url.slice('file:'.length),
    environment: { NODE_ENV: 'production', DATABASE_URL: database.url },
  };
}

/** Reads the file in a process of its own: closing it in this one would drop the locks of the test's connection. */
function hashOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

describe('key:rotate', () => {
  it('does not say of one that had switched before that nothing was written, and nothing more', async () => {
    const { environment, gateway: database } = await tableOf(2);
    expect((await runCli(['rotate', ...flags], environment)).code).toBe(0);
    await database.run("UPDATE vault_rotations SET state = 'writing', switched = 1");
    await database.run("UPDATE api_keys SET auth_tag = '00' WHERE id = (SELECT max(id) FROM api_keys)");
    const { code, stderr } = await runCli(['rotate', ...flags], environment);
    expect([code, stderr]).toEqual([6, expect.stringContaining('The active key had been switched before: keep both keys.')]);
  });

  it.each(['begun with', 'found by the gate of'])('nor where a table is not covered any more that is %s it', async (how) => {
    const { environment, gateway: database } = await tableOf(1);
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'c', provider: 'sample' }, 'context_connector_credentials');
    const both = { ...environment, VAULT_ENCRYPTED_TABLES: 'api_keys,context_connector_credentials' };
    expect((await runCli(['rotate', ...flags], both)).code).toBe(0);
    const covered = how === 'begun with' ? 'covered_tables' : `'["api_keys"]'`;
    await database.run(`UPDATE vault_rotations SET state = 'writing', switched = 1, covered_tables = ${covered}`);
    for (const further of [[], ['--dry-run']]) {
      const { code, stderr } = await runCli(['rotate', ...flags, ...further], environment);
      expect([code, stderr]).toEqual([6, expect.stringContaining('The active key had been switched before: keep both keys.')]);
    }
  });

  it.each([
    ['before', '10', 2],
    ['behind', '1', 6],
  ])('%s the switch of the active key says so of what the database lacks', async (where, atomicRows, expected) => {
    const { environment, gateway: database } = await tableOf(3);
    // Only a write of a row finds that the trigger's table is not there.
    await database.run('CREATE TRIGGER noted AFTER UPDATE ON api_keys BEGIN INSERT INTO taken_away VALUES (1); END');
    const { code, stderr } = await runCli(['rotate', ...flags], { ...environment, VAULT_ROTATION_ATOMIC_ROWS: atomicRows });
    expect([code, stderr.includes('keep both keys')]).toEqual([expected, where === 'behind']);
    expect(stderr).toContain('The database has no table');
    expect(await database.rows('vault_rotations')).toMatchObject([{ switched: Number(where === 'behind') }]);
  });

  it.each([
    ['before', '10', 2, 'failed'],
    ['behind', '1', 6, 'interrupted'],
  ])('%s the switch of the active key says so of a table that refuses its rows', async (where, atomicRows, expected, state) => {
    const { environment, gateway: database } = await tableOf(3);
    await database.run("CREATE TRIGGER kept BEFORE UPDATE ON api_keys BEGIN SELECT raise(ABORT, 'sample'); END");
    const settings = { ...environment, VAULT_ROTATION_ATOMIC_ROWS: atomicRows };
    const { code, stderr } = await runCli(['rotate', ...flags], settings);
    expect([code, stderr.includes('keep both keys')]).toEqual([expected, where === 'behind']);
    expect(stderr).toContain('A constraint or a trigger in the database refuses what the rotation writes');
    expect(await database.rows('vault_rotations')).toMatchObject([{ state, switched: Number(where === 'behind') }]);
    await database.run('DROP TRIGGER kept');
    expect((await runCli(['rotate', ...flags], settings)).stdout).toContain('[rotate] rotated 3 of 3 row(s).');
  });

  it('names the constraint that refuses its rows', async () => {
    const { environment, gateway: database } = await tableOf(1);
    await database.run('ALTER TABLE api_keys ADD COLUMN note text CONSTRAINT long_iv CHECK (length(iv) = 32)');
    const { code, stderr } = await runCli(['rotate', ...flags, '--upgrade-format'], environment);
    expect([code, stderr]).toEqual([2, expect.stringContaining('what the rotation writes (CHECK constraint failed: long_iv)')]);
  });

  it('says what the runbook says, to the character, for a dry run and a rotation', async () => {
    const { environment, gateway: database } = await tableOf(3);
    const dryRun = await runCli(['rotate', ...flags, '--dry-run'], environment);
    expect(dryRun).toEqual({
      code: 0,
      stdout: expect.stringMatching(
        /^\[rotate\] DRY RUN — scanned 3 row\(s\)\. Every row decrypts cleanly with the --old key\.\n\[rotate\] Programs that open rows of api_keys themselves/,
      ),
      stderr: '',
    });
    const executed = await runCli(['rotate', ...flags], environment);
    expect(executed.code).toBe(0);
    expect(executed.stdout.split('\n')[0]).toBe('[rotate] rotated 3 of 3 row(s).');
    expect(executed.stderr).toBe('');
    expect(await database.open(keyB, 'row-0')).toBe('sample-value-of-row-0');
    const again = await runCli(['rotate', ...flags], environment);
    expect([again.code, again.stdout.split('\n')[0]]).toEqual([0, '[rotate] rotated 0 of 3 row(s).']);
    expect(again.stdout).toContain('3 row(s) were under the --new key already.');
  });

  it('takes the keys from the environment and from files', async () => {
    const { environment } = await tableOf(1);
    const fromVariables = { ...environment, PROVARA_MASTER_KEY_OLD: keyA, PROVARA_MASTER_KEY_NEW: keyB };
    expect((await runCli(['rotate', '--dry-run'], fromVariables)).code).toBe(0);
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'old'), `${keyA}\n`);
    writeFileSync(join(folder, 'new'), `${keyB}\n`);
    const fromFiles = { PROVARA_MASTER_KEY_OLD_FILE: join(folder, 'old'), PROVARA_MASTER_KEY_NEW_FILE: join(folder, 'new') };
    expect((await runCli(['rotate'], { ...environment, ...fromFiles })).stdout).toContain('[rotate] rotated 1 of 1 row(s).');
  });

  it('leaves what it has written in the file itself, for whoever copies that without its log', async () => {
    const { path, environment } = await tableOf(3);
    const beside = new Database({ url: environment.DATABASE_URL });
    await beside.useWriteAheadLog();
    expect((await runCli(['rotate', ...flags], environment)).code).toBe(0);
    copyFileSync(path, `${path}-copy`);
    const copy = new Database({ url: `file:${path}-copy` });
    const rows = await copy.read('SELECT key_id, count(*) AS rows FROM api_keys GROUP BY key_id');
    expect(rows).toEqual([{ key_id: keyIdB, rows: 3n }]);
    for (const database of [beside, copy]) await database.close();
  });

  it('says of a key that is given twice that it is, and nothing else', async () => {
    const { environment } = await tableOf(1);
    const twice = { PROVARA_MASTER_KEY_OLD: keyA, PROVARA_MASTER_KEY_OLD_FILE: 'old.key', PROVARA_MASTER_KEY_NEW: keyB };
    const { code, stderr } = await runCli(['rotate'], { ...environment, ...twice });
    expect([code, stderr]).toEqual([
      2,
      'error: PROVARA_MASTER_KEY_OLD and PROVARA_MASTER_KEY_OLD_FILE are both set: keep one.\n',
    ]);
  });

  it('names every failing row on standard error, exits with 3, and writes nothing', async () => {
    const { environment, gateway: database } = await tableOf(2);
    await database.insert(keyC, { id: 'foreign' });
    await database.insert('f'.repeat(64), { id: 'unknown' });
    const before = await database.rows();
    for (const mode of [['--dry-run'], []]) {
      const { code, stdout, stderr } = await runCli(['rotate', ...flags, ...mode], { ...environment, PROVARA_MASTER_KEY: keyC });
      expect([code, stdout]).toEqual([3, '']);
      expect(stderr).toMatch(/^error: Decrypt failed for api_keys\.id=foreign — the --old key does not match/);
      expect(stderr).toContain(`other_key ${keyIdC}`);
      expect(stderr).toContain('api_keys.id=unknown (unknown_key_or_corrupt)');
      expect(stderr).toContain('2 of 4 row(s) failed; nothing was written.');
    }
    const after = (await database.rows()).map(({ key_id, key_id_tag, last_used_at, ...row }) => row);
    expect(after).toEqual(before);
    const skipped = await runCli(['rotate', ...flags, '--skip', 'foreign,api_keys:unknown'], environment);
    expect([skipped.code, skipped.stdout.split('\n')[0]]).toEqual([0, '[rotate] rotated 2 of 4 row(s).']);
  });

  it('leaves out every row that is named, in one list or several, also one with a comma in its id', async () => {
    const { environment, gateway: database } = await tableOf(1);
    for (const id of ['first', 'second', 'third', 'a, b']) await database.insert(keyA, { id });
    const skips = ['--skip', 'first,second', '--skip', 'api_keys:third', '--skip', 'a\\, b'];
    const { code, stdout } = await runCli(['rotate', ...flags, ...skips], environment);
    expect([code, stdout.split('\n')[0]]).toEqual([0, '[rotate] rotated 1 of 5 row(s).']);
  });

  it('names every row that stays under the old key after all was written, and exits with 6', async () => {
    const { environment, gateway: database } = await tableOf(3);
    await database.run("CREATE TRIGGER kept BEFORE UPDATE ON api_keys WHEN old.id = 'row-1' BEGIN SELECT RAISE(IGNORE); END");
    const { code, stderr } = await runCli(['rotate', ...flags], { ...environment, VAULT_ROTATION_ATOMIC_ROWS: '0' });
    expect([code, stderr]).toEqual([6, 'error: 1 row(s) are under the old key again: api_keys.id=row-1.\n']);
  });

  it.each([
    ['no old key', ['--new', keyB], '--old, PROVARA_MASTER_KEY_OLD'],
    ['no new key', ['--old', keyA], '--new, PROVARA_MASTER_KEY_NEW'],
    ['equal keys', ['--old', keyA, '--new', keyA], 'identical: nothing to rotate.'],
    ['a passphrase as new key', ['--old', keyA, '--new', 'a sample passphrase'], '64 hexadecimal characters'],
    ['an unknown row to skip', [...flags, '--skip', 'no-such-row'], 'no-such-row'],
    ['an unknown flag', [...flags, '--dryrun'], "unknown option '--dryrun'"],
    ['an argument too many', [...flags, 'now'], 'too many arguments'],
  ])('refuses %s with exit code 2 and leaves the table alone', async (_case, args, message) => {
    const { environment, gateway: database } = await tableOf(1);
    const before = await database.rows();
    for (const mode of [['--dry-run'], []]) {
      const { code, stdout, stderr } = await runCli(['rotate', ...args, ...mode], environment);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr).toContain(message);
      for (const secret of [keyA, keyB, 'a sample passphrase']) expect(stderr).not.toContain(secret);
    }
    expect((await database.rows()).map(({ key_id, key_id_tag, last_used_at, ...row }) => row)).toEqual(before);
  });

  it('refuses a table that it does not cover with exit code 3', async () => {
    const { environment, gateway: database } = await tableOf(1);
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'connector' }, 'context_connector_credentials');
    const { code, stderr } = await runCli(['rotate', ...flags, '--dry-run'], environment);
    expect(code).toBe(3);
    expect(stderr).toContain('context_connector_credentials');
  });

  it('answers as the HTTP API does with --json', async () => {
    const { environment } = await tableOf(2);
    const dryRun = await runCli(['rotate', ...flags, '--dry-run', '--json'], environment);
    expect(JSON.parse(dryRun.stdout)).toMatchObject({ dry_run: true, rows_scanned: 2, from_key_id: keyIdA, to_key_id: keyIdB });
    const executed = await runCli(['rotate', ...flags, '--json'], environment);
    expect(JSON.parse(executed.stdout).rotation).toMatchObject({ state: 'completed', rows_rotated: 2, rows_verified: 2 });
  });

  it('upgrades the format on request', async () => {
    const { environment, gateway: database } = await tableOf(2);
    expect((await runCli(['rotate', ...flags, '--upgrade-format'], environment)).code).toBe(0);
    expect((await database.rows()).map(({ iv }) => String(iv).length)).toEqual([24, 24]);
  });

  it('makes no database where there is none, and says so', async () => {
    const folder = temporaryFolder();
    const { code, stderr } = await runCli(['rotate', ...flags], { DATABASE_URL: `file:${folder}/none.db` }, folder);
    expect(code).toBe(2);
    expect(stderr).toContain('DATABASE_URL names a file that does not exist');
  });
});

describe('a command that is refused', () => {
  it.each([
    ['equal keys', ['--old', keyA, '--new', keyA]],
    ['a passphrase as new key', ['--old', keyA, '--new', 'a sample passphrase']],
    ['an unknown row to skip', [...flags, '--skip', 'no-such-row']],
    ['a wrong old key', ['--old', keyC, '--new', keyB]],
  ])('for %s leaves a database that was never served as it was, byte for byte', async (_case, args) => {
    const { environment, gateway, path } = await tableOf(2);
    gateway.close();
    const before = hashOf(path);
    expect((await runCli(['rotate', ...args], environment)).code).toBeGreaterThan(1);
    expect(hashOf(path)).toBe(before);
  });

  it('because the database has no such table makes none', async () => {
    const { environment, gateway, path } = await tableOf(0);
    await gateway.run('DROP TABLE api_keys');
    gateway.close();
    const before = hashOf(path);
    const { code, stderr } = await runCli(['rotate', ...flags], environment);
    expect([code, hashOf(path)]).toEqual([2, before]);
    expect(stderr).toContain('no table api_keys');
  });
});

describe('a dry run', () => {
  it('leaves the file of a table that was never served as it was, byte for byte', async () => {
    const { environment, gateway, path } = await tableOf(3);
    gateway.close();
    const before = hashOf(path);
    expect((await runCli(['rotate', ...flags, '--dry-run'], environment)).code).toBe(0);
    expect((await runCli(['verify'], { ...environment, PROVARA_MASTER_KEY: keyA })).code).toBe(0);
    expect(hashOf(path)).toBe(before);
  });

  it('leaves the file as it was, byte for byte, also where a killed service has left a write-ahead log', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'vault.db');
    const server = await startServer(environmentFor(`file:${path}`));
    const gateway = caller(server.origin, gatewayToken);
    for (let index = 0; index < 20; index += 1) {
      await gateway('POST', '/v1/api-keys', { name: `K${index}`, provider: 'openai', value: 'sample' });
    }
    await server.stop('SIGKILL');
    const before = [hashOf(path), hashOf(`${path}-wal`)];
    const { code, stdout } = await runCli(['rotate', ...flags, '--dry-run'], { DATABASE_URL: `file:${path}` }, dirname(path));
    expect([code, stdout]).toEqual([0, expect.stringContaining('[rotate] DRY RUN — scanned 20 row(s).')]);
    expect([hashOf(path), hashOf(`${path}-wal`)]).toEqual(before);
  });
});

describe('a rotation with the service up', () => {
  it('is seen by the service at once: it seals under the new key and reads every row', async () => {
    const { url, environment } = await tableOf(5);
    const server = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
    const gateway = caller(server.origin, gatewayToken);
    expect((await runCli(['rotate', ...flags], environment)).stdout).toContain('[rotate] rotated 5 of 5 row(s).');
    const stored = await gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample' });
    expect(stored.body.key.key_id).toBe(keyIdB);
    expect((await gateway('POST', '/v1/encrypt', { plaintext: 'sample' })).body.key_id).toBe(keyIdB);
    for (let index = 0; index < 5; index += 1) {
      const { body } = await gateway('POST', '/v1/api-keys/decrypt', { name: `row-${index}` });
      expect(body.key.value).toBe(`sample-value-of-row-${index}`);
    }
  });

  it('says that the old key is the wrong one where the service, which lacks it, is up as well', async () => {
    const { url, environment, gateway: database } = await tableOf(1);
    await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
    const { code, stderr } = await runCli(['rotate', '--old', keyC, '--new', keyB], environment);
    expect([code, stderr]).toEqual([
      3,
      expect.stringContaining('error: Decrypt failed for api_keys.id=row-0 — the --old key does not match'),
    ]);
    // Of a rotation that is begun, replicas that lack a key are not ready.
    expect(await database.rows('vault_rotations')).toEqual([]);
  });

  it('asks replicas for an old key that opens every row, and is not the active one, before it writes', async () => {
    const { url, environment, gateway: database } = await tableOf(0);
    await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
    await database.insert(keyC, { id: 'row-0' });
    const { code, stderr } = await runCli(['rotate', '--old', keyC, '--new', keyB], environment);
    expect([code, stderr]).toEqual([4, expect.stringContaining(`lacks ${keyIdC}`)]);
    expect(await database.open(keyC, 'row-0')).toBeTypeOf('string');
    expect(await database.rows('vault_rotations')).toEqual([]);
  });

  it('stops with exit code 4 where the service lacks the new key, unless it is forced', async () => {
    const { url, environment, gateway: database } = await tableOf(1);
    await startServer(environmentFor(url));
    const { code, stderr } = await runCli(['rotate', ...flags], environment);
    expect(code).toBe(4);
    expect(stderr).toContain(keyIdB);
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
    expect((await runCli(['rotate', ...flags, '--force'], environment)).code).toBe(0);
    expect((await database.rows('vault_rotations')).at(-1)?.forced).toBe(1);
  });
});

describe('key:rotate that is stopped before its end', () => {
  /** One that has just begun, at its gate. */
  async function begun() {
    const { url, environment, gateway: database } = await tableOf(20_000);
    const service = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
    const { child, ended } = startCli(['rotate', ...flags], environment);
    await expect.poll(() => database.rows('vault_rotations'), { interval: 5 }).toHaveLength(1);
    return { environment, database, admin: caller(service.origin, adminToken), child, ended };
  }

  it('by a signal says so on record and to whoever sent it, with exit code 9, and ends when it is run again', async () => {
    const { environment, database, child, ended } = await begun();
    child.kill('SIGINT');
    // As npm does with what a terminal has sent to both; either may come first.
    child.kill('SIGTERM');
    const { code, stdout, stderr } = await ended;
    expect([code, stdout]).toEqual([9, '']);
    expect(stderr).toMatch(/^error: Stopped by SIG(INT|TERM): run the same command again to finish\.\n$/);
    expect(await database.rows('vault_rotations')).toMatchObject([{ state: 'interrupted' }]);
    expect((await runCli(['status'], { ...environment, PROVARA_MASTER_KEY: keyA })).stderr).toContain(
      'run the same again once it is up',
    );
    const again = await runCli(['rotate', ...flags], environment);
    expect([again.code, again.stdout.split('\n')[0]]).toEqual([0, expect.stringMatching(/^\[rotate\] rotated \d+ of 20000 row/)]);
    expect(await database.rows('vault_rotations')).toMatchObject([{ state: 'completed', rows_verified: 20_000 }]);
  });

  it('by cancelling it over HTTP says that nothing was written, with exit code 9', async () => {
    const { database, admin, ended } = await begun();
    const { id } = (await admin('GET', '/admin/rotate')).body.running;
    expect((await admin('POST', `/admin/rotate/${id}/cancel`)).status).toBe(200);
    const { code, stdout, stderr } = await ended;
    expect([code, stdout, stderr]).toEqual([9, '', 'error: The rotation was cancelled; nothing was written.\n']);
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
  });
});

describe('key:generate', () => {
  it('prints a fresh key of 64 hex characters and nothing else', async () => {
    const keys = [await runCli(['generate'], {}), await runCli(['generate'], {})].map(({ stdout }) => stdout);
    for (const key of keys) expect(key).toMatch(/^[0-9a-f]{64}\n$/);
    expect(keys[0]).not.toBe(keys[1]);
  });

  it('fails where standard output does not take it, and is quiet where its reader has gone', async () => {
    const { code, stderr } = await runShell('"$0" dist/cli.js generate > /dev/full');
    expect([code, stderr]).toEqual([1, 'error: Standard output has not taken everything (ENOSPC).\n']);
    const piped = await runShell('("$0" dist/cli.js generate; echo "code $?" >&2) | true');
    expect([piped.stdout, piped.stderr]).toEqual(['', 'code 0\n']);
  });
});

describe('key:verify and key:status', () => {
  it('say what opens what, and exit with 6 where a row does not open', async () => {
    const { environment, gateway: database } = await tableOf(2);
    const withKey = { ...environment, PROVARA_MASTER_KEY: keyA };
    const verified = await runCli(['verify'], withKey);
    expect([verified.code, verified.stdout]).toEqual([0, `[verify] 2 of 2 row(s) open.\n[verify] ${keyIdA}: 2 row(s)\n`]);
    await database.insert(keyC, { id: 'foreign' });
    const failed = await runCli(['verify', '--json'], withKey);
    expect([failed.code, JSON.parse(failed.stdout).rows_failed]).toEqual([6, 1]);
    expect((await runCli(['status'], withKey)).stderr).toContain('not served this database yet');
    const unserved = await runCli(['status', '--json'], withKey);
    expect([unserved.code, JSON.parse(unserved.stdout).error.type]).toEqual([2, 'configuration_error']);
    await runCli(['rotate', ...flags, '--skip', 'foreign'], withKey);
    const { code, stdout } = await runCli(['status'], { ...withKey, PROVARA_MASTER_KEY_NEW: keyB });
    expect(code).toBe(0);
    expect(stdout).toContain(`[status] active key: ${keyIdB}`);
    expect(stdout).toContain(`[status] ${keyIdA}: retired, PROVARA_MASTER_KEY, 0 row(s)\n`);
    expect(stdout).toContain('[status] last rotation: completed, rotated 2 of 3 row(s).\n');
    expect(stdout).toContain('[status] 1 skipped row(s) are still under another key: keep that key in the keyring.\n');
  });
});

describe('what others have written', () => {
  it('into a row does not look like lines of the command', async () => {
    const { environment, gateway: database } = await tableOf(1);
    await database.insert(keyC, { id: 'foreign\nerror: sample\u001b[2J\u009b' });
    const withKey = { ...environment, PROVARA_MASTER_KEY: keyA };
    const shown = 'api_keys.id=foreign\\u000aerror: sample\\u001b[2J\\u009b ';
    expect((await runCli(['verify'], withKey)).stderr).toContain(`error: ${shown}does not open`);
    expect((await runCli(['rotate', ...flags], environment)).stderr).toContain(`Decrypt failed for ${shown}—`);
  });
});

describe('what is said of failing rows', () => {
  it('is said whole to a slow reader, and without one the exit code is the same', async () => {
    const { environment } = await tableOf(3_000);
    const wrong = { ...environment, PROVARA_MASTER_KEY_OLD: keyC, PROVARA_MASTER_KEY_NEW: keyB, PROVARA_MASTER_KEY: keyC };
    const slow = await runShell('"$0" dist/cli.js rotate 2>&1 >/dev/null | (sleep 2; cat)', wrong);
    expect(slow.stdout).toContain('3000 of 3000 row(s) failed; nothing was written.');
    const alone = await runShell('(("$0" dist/cli.js rotate 2>&1; echo "code $?" >&3) | true) 3>&2', wrong);
    expect(alone.stderr).toBe('code 3\n');
    const verified = await runShell('(("$0" dist/cli.js verify 2>&1; echo "code $?" >&3) | true) 3>&2', wrong);
    expect(verified.stderr).toBe('code 6\n');
  });
});

describe('a flag that is not known', () => {
  it('is named without what was given with it, which may be a key', async () => {
    const { code, stdout, stderr } = await runCli(['rotate', `--old-key=${keyA}`, '--json'], {});
    expect([code, JSON.parse(stdout).error.message]).toEqual([2, "error: unknown option '--old-key'"]);
    expect(stderr).toContain("unknown option '--old-key'");
    expect(stdout + stderr).not.toContain(keyA);
    for (const given of ["--old-key=it's a sample", '--old.key=sample', '--öld=sample', 'old=sample', `--old${keyA}`]) {
      const refused = await runCli(['rotate', given, '--json'], {});
      expect([refused.code, refused.stdout + refused.stderr], given).toEqual([2, expect.not.stringContaining('sample')]);
      expect(refused.stdout + refused.stderr, given).not.toContain(keyA);
    }
    for (const given of [[keyA], ["pass'my-secret phrase-0123456789"], ['rotate', "--oldpass'my-secret phrase-0123"]]) {
      const refused = await runCli([...given, '--json'], {});
      expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('which is not shown: it may be a key')]);
      for (const secret of [keyA, 'secret']) expect(refused.stdout + refused.stderr).not.toContain(secret);
    }
  });
});

describe('--help', () => {
  it.each(['rotate', 'generate', 'verify', 'status', 'snapshot', 'restore'])(
    'of %s shows an example and --json',
    async (command) => {
      const { code, stdout } = await runCli([command, '--help'], {});
      expect(code).toBe(0);
      expect(stdout).toContain(`npx provara-vault ${command}`);
      expect(stdout).toContain('--json');
    },
  );

  it('documents every exit code', async () => {
    const { stdout } = await runCli(['--help'], {});
    for (const code of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) expect(stdout).toMatch(new RegExp(`^ {2}${code} {2}\\S`, 'm'));
  });
});
