/** Outside production a fresh folder becomes a running vault; its keys are kept, moved up after a rotation, and never lost or made for rows of others. */

import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { isAbsolute } from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { defaultDatabaseUrl, readServerConfig } from '../src/config.ts';
import { parseMasterKey } from '../src/crypto/master-key.ts';
import { completeEnvironment, keptEnvironment } from '../src/development.ts';
import type { Environment } from '../src/settings.ts';
import { Database } from '../src/store/database.ts';
import { keyA, keyB, keyC, startVault, temporaryDatabase, temporaryFolder } from './support/vault.ts';

const file = 'data/dev.env';
const tokens = ['VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS'];
const masterKeys = ['PROVARA_MASTER_KEY', 'PROVARA_MASTER_KEY_NEW'];

beforeEach(() => {
  const before = process.cwd();
  process.chdir(temporaryFolder());
  onTestFinished(() => process.chdir(before));
});

function contents(): string {
  return readFileSync(file, 'utf8');
}

function writeFile(...lines: readonly string[]): void {
  mkdirSync('data', { recursive: true });
  writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 });
}

function modeOf(path: string): number {
  return statSync(path).mode & 0o777;
}

function masterKeysAmong(names: readonly string[]): string[] {
  return names.filter((name) => name.startsWith('PROVARA_MASTER_KEY'));
}

/** What a start does: completes the environment, and runs a vault with it for as long as `use` takes. */
async function start(use: (vault: Awaited<ReturnType<typeof startVault>>) => Promise<void>): Promise<Environment> {
  const { environment } = await completeEnvironment({});
  const { PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW, PROVARA_MASTER_KEY_OLD } = environment;
  const vault = await startVault(defaultDatabaseUrl, { PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW, PROVARA_MASTER_KEY_OLD });
  await use(vault);
  await vault.close();
  return environment;
}

async function rotate(): Promise<Environment> {
  return start(async ({ admin }) => {
    const { body } = await admin('POST', '/admin/rotate/execute', {});
    expect(body.rotation.state).toBe('completed');
  });
}

async function storeSample(): Promise<Environment> {
  return start(async ({ gateway }) => {
    const { status } = await gateway('POST', '/v1/api-keys', { name: 'SAMPLE', provider: 'openai', value: 'sample-value-0001' });
    expect(status).toBe(201);
  });
}

async function expectSampleOpens(): Promise<void> {
  await start(async ({ gateway }) => {
    const { body } = await gateway('POST', '/v1/api-keys/decrypt', { name: 'SAMPLE' });
    expect(body.key.value).toBe('sample-value-0001');
  });
}

describe('the first start in a fresh folder', () => {
  it('makes tokens, a master key and a staged one, tells so, and so completes the configuration', async () => {
    const { environment, path, made, added } = await completeEnvironment({});
    expect([...made].sort()).toEqual([...masterKeys, ...tokens].sort());
    expect([...added].sort()).toEqual([...made].sort());
    expect(isAbsolute(path)).toBe(true);
    const config = readServerConfig(environment);
    expect(config.keyring.entries.map(({ sources, key }) => [sources, key.isPassphrase])).toEqual(
      expect.arrayContaining([
        [['PROVARA_MASTER_KEY'], false],
        [['PROVARA_MASTER_KEY_NEW'], false],
      ]),
    );
    expect(config.tokens.map(({ role }) => role).sort()).toEqual(['admin', 'gateway']);
  });

  it('keeps what it makes in data/dev.env, readable by its owner alone, and leaves no other file beside it', async () => {
    const mask = process.umask(0);
    onTestFinished(() => void process.umask(mask));
    const { environment, path, made } = await completeEnvironment({});
    expect(path).toBe(`${process.cwd()}/${file}`);
    expect([modeOf(file), modeOf('data')]).toEqual([0o600, 0o700]);
    for (const name of made) expect(contents().split('\n')).toContain(`${name}=${environment[name]}`);
    expect(readdirSync('data').filter((name) => !name.startsWith('vault.db'))).toEqual(['dev.env']);
  });

  it('never makes the same twice', async () => {
    const first = await completeEnvironment({});
    rmSync(file);
    const second = await completeEnvironment({});
    for (const name of first.made) expect(second.environment[name]).not.toBe(first.environment[name]);
  });

  it('leaves what is given as it is, and out of the file', async () => {
    const given = { PROVARA_MASTER_KEY: keyA, VAULT_ADMIN_TOKENS_FILE: '/sample/path' };
    const { environment, made, added } = await completeEnvironment(given);
    expect(environment).toMatchObject(given);
    expect(environment.VAULT_ADMIN_TOKENS).toBeUndefined();
    expect([...made].sort()).toEqual(['PROVARA_MASTER_KEY_NEW', 'VAULT_GATEWAY_TOKENS']);
    expect([...added].sort()).toEqual([...made].sort());
    expect(contents()).not.toContain(keyA);
    expect(contents()).not.toContain('VAULT_ADMIN_TOKENS');
  });

  it('overwrites nothing when two processes make the file at once', async () => {
    const starts = await Promise.allSettled([completeEnvironment({}), completeEnvironment({})]);
    const finished = starts.flatMap((result) => (result.status === 'fulfilled' ? [result.value.environment] : []));
    expect(finished.length).toBeGreaterThan(0);
    for (const { PROVARA_MASTER_KEY } of finished) expect(contents()).toContain(`PROVARA_MASTER_KEY=${PROVARA_MASTER_KEY}\n`);
    expect(readdirSync('data').filter((name) => !name.startsWith('vault.db'))).toEqual(['dev.env']);
  });

  it('completes a file that is there and holds nothing', async () => {
    writeFile('# A comment.');
    const { environment } = await completeEnvironment({});
    expect(contents()).toContain(`PROVARA_MASTER_KEY=${environment.PROVARA_MASTER_KEY}\n`);
  });
});

describe('every later start', () => {
  it('finds the same keys and tokens, and does not write the file', async () => {
    const first = await completeEnvironment({});
    const written = contents();
    const { ino } = statSync(file);
    const second = await completeEnvironment({});
    expect(second.environment).toEqual(first.environment);
    expect(second.made).toEqual([]);
    expect([...second.added].sort()).toEqual([...first.added].sort());
    expect(contents()).toBe(written);
    expect(statSync(file).ino).toBe(ino);
  });

  it('lets a variable that is set, or its _FILE, win over the file', async () => {
    await completeEnvironment({});
    const written = contents();
    const { environment, added } = await completeEnvironment({
      PROVARA_MASTER_KEY: keyA,
      PROVARA_MASTER_KEY_NEW_FILE: '/sample/path',
    });
    expect(environment.PROVARA_MASTER_KEY).toBe(keyA);
    expect(environment.PROVARA_MASTER_KEY_NEW).toBeUndefined();
    expect([...added].sort()).toEqual([...tokens].sort());
    expect(contents()).toBe(written);
  });

  it('keeps the keys while rows are stored, and opens them', async () => {
    const first = await storeSample();
    const { environment, made } = await completeEnvironment({});
    expect(environment).toEqual(first);
    expect(made).toEqual([]);
    await expectSampleOpens();
  });
});

describe('the start after a rotation', () => {
  it('moves the staged key up, keeps the one before as the old key, and stages another', async () => {
    await storeSample();
    const before = await rotate();
    const { environment, made } = await completeEnvironment({});
    expect(environment.PROVARA_MASTER_KEY).toBe(before.PROVARA_MASTER_KEY_NEW);
    expect(environment.PROVARA_MASTER_KEY_OLD).toBe(before.PROVARA_MASTER_KEY);
    expect([before.PROVARA_MASTER_KEY, before.PROVARA_MASTER_KEY_NEW]).not.toContain(environment.PROVARA_MASTER_KEY_NEW);
    expect([...made].sort()).toEqual([...masterKeys, 'PROVARA_MASTER_KEY_OLD'].sort());
    expect((await completeEnvironment({})).made).toEqual([]);
    await expectSampleOpens();
  });

  it('leaves the keys where they are while a rotation is unfinished, which needs them', async () => {
    await storeSample();
    await rotate();
    const before = await start(async ({ admin }) => {
      const { keys } = (await admin('GET', '/admin/master-keys')).body;
      const byState = (state: string) => keys.find((key: { state: string }) => key.state === state).key_id;
      const back = { old_key_id: byState('active'), new_key_id: byState('retired') };
      expect((await admin('POST', '/admin/rotate/execute', back)).body.rotation.state).toBe('completed');
    });
    // One from the first key to the staged one, which has switched: to move that up would drop the first.
    const staged = parseMasterKey(before.PROVARA_MASTER_KEY_NEW ?? '').id;
    const database = new Database({ url: defaultDatabaseUrl });
    await database.write([
      { sql: "UPDATE vault_rotations SET state = 'interrupted', switched = 1, to_key_id = ? WHERE rowid = 1", args: [staged] },
      { sql: 'UPDATE vault_active_key SET key_id = ?', args: [staged] },
    ]);
    await database.close();
    const { environment, made } = await completeEnvironment({});
    expect([environment, made]).toEqual([before, []]);
  });

  it('and one back stages another key, so that a rotation can be tried again', async () => {
    await storeSample();
    const { PROVARA_MASTER_KEY = '', PROVARA_MASTER_KEY_NEW = '' } = await rotate();
    const [first, second] = [PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW].map((key) => parseMasterKey(key).id);
    const vault = await startVault(defaultDatabaseUrl, { PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW });
    const back = await vault.admin('POST', '/admin/rotate/execute', { old_key_id: second, new_key_id: first });
    expect(back.body.rotation.state).toBe('completed');
    await vault.close();
    const next = await rotate();
    expect([next.PROVARA_MASTER_KEY, next.PROVARA_MASTER_KEY_OLD]).toEqual([PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW]);
    await expectSampleOpens();
  });

  it('does not come before the staged key is active', async () => {
    const before = await storeSample();
    await start(async ({ admin }) => {
      expect((await admin('POST', '/admin/rotate/dry-run', {})).status).toBe(200);
    });
    expect((await completeEnvironment({})).environment).toEqual(before);
  });

  it('keeps every key that ever was in the file, however many rotations there were, and rows open', async () => {
    await storeSample();
    const keys = new Set<string | undefined>();
    for (let rotation = 1; rotation <= 3; rotation += 1) {
      const { PROVARA_MASTER_KEY, PROVARA_MASTER_KEY_NEW } = await rotate();
      keys.add(PROVARA_MASTER_KEY).add(PROVARA_MASTER_KEY_NEW);
    }
    await expectSampleOpens();
    expect(keys.size).toBe(4);
    for (const key of keys) expect(contents()).toContain(key);
  });

  it('leaves the file readable by its owner alone, even where it was not', async () => {
    await storeSample();
    await rotate();
    chmodSync(file, 0o644);
    await completeEnvironment({});
    expect(modeOf(file)).toBe(0o600);
  });

  it('moves no key where an old one is given, which would hide the one that the file keeps', async () => {
    await storeSample();
    const before = await rotate();
    const { environment, made } = await completeEnvironment({ PROVARA_MASTER_KEY_OLD: keyC });
    expect(made).toEqual([]);
    expect(environment).toEqual({ ...before, PROVARA_MASTER_KEY_OLD: keyC });
  });

  it('keeps tokens and every other setting of the file', async () => {
    await storeSample();
    appendFileSync(file, 'LOG_LEVEL=silent\nVAULT_EXEMPT_TABLES=api_keys_backup\n');
    const before = await rotate();
    const { environment } = await completeEnvironment({});
    for (const name of [...tokens, 'LOG_LEVEL', 'VAULT_EXEMPT_TABLES']) expect(environment[name]).toBe(before[name]);
  });
});

describe('a start that another has died in the midst of', () => {
  it('is not waited for longer than one may take', async () => {
    writeFile('# A comment.');
    writeFileSync(`${file}.lock`, '');
    utimesSync(`${file}.lock`, 1, 1);
    expect((await completeEnvironment({})).made).toContain('PROVARA_MASTER_KEY');
    expect(existsSync(`${file}.lock`)).toBe(false);
  });
});

describe('a rewritten file', () => {
  it('holds the keys of every process that runs, when two rewrite it at once', async () => {
    writeFile(`PROVARA_MASTER_KEY=${keyA}`);
    const starts = await Promise.allSettled([completeEnvironment({}), completeEnvironment({})]);
    const finished = starts.flatMap((result) => (result.status === 'fulfilled' ? [result.value.environment] : []));
    expect(finished.length).toBeGreaterThan(0);
    for (const { PROVARA_MASTER_KEY_NEW } of finished) expect(contents()).toContain(PROVARA_MASTER_KEY_NEW);
  });

  it('still holds a key that a later line overrides', async () => {
    writeFile(`PROVARA_MASTER_KEY=${keyA}`, `PROVARA_MASTER_KEY=${keyB}`);
    const { environment, made } = await completeEnvironment({});
    expect(made).toContain('PROVARA_MASTER_KEY_NEW');
    expect(environment.PROVARA_MASTER_KEY).toBe(keyB);
    expect(contents()).toContain(keyB);
    expect(contents()).toContain(keyA);
  });

  it('still holds a key that its owner has commented out', async () => {
    writeFile(`PROVARA_MASTER_KEY=${keyA}`, `#PROVARA_MASTER_KEY_OLD=${keyB}`, `# retired: ${keyC}`);
    expect((await completeEnvironment({})).made).toContain('PROVARA_MASTER_KEY_NEW');
    for (const key of [keyA, keyC, keyB]) expect(contents()).toContain(key);
  });
});

describe('master keys are not made', () => {
  it.each(['libsql://sample.example', 'https://sample.example', 'http://127.0.0.1:1', 'ws://127.0.0.1:1'])(
    'for a database on a server: %s',
    async (DATABASE_URL) => {
      const { environment, made } = await completeEnvironment({ DATABASE_URL });
      expect([...made].sort()).toEqual([...tokens].sort());
      expect(masterKeysAmong(Object.keys(environment))).toEqual([]);
      expect(contents()).not.toContain('PROVARA_');
    },
  );

  it('for a database on a server, beside a key that the file holds', async () => {
    writeFile(`PROVARA_MASTER_KEY=${keyA}`);
    const { made, added, environment } = await completeEnvironment({ DATABASE_URL: 'libsql://sample.example' });
    expect(masterKeysAmong(made)).toEqual([]);
    // Nor is that key, which is for the local rows, given to it.
    expect(masterKeysAmong([...added, ...Object.keys(environment)])).toEqual([]);
    expect(masterKeysAmong(Object.keys(keptEnvironment({ DATABASE_URL: 'libsql://sample.example' })))).toEqual([]);
  });

  it.each([['api_keys'], ['context_connector_credentials']])(
    'for a local database that holds rows of others in %s',
    async (table) => {
      const { url, gateway } = await temporaryDatabase();
      if (table !== 'api_keys') await gateway.run(`CREATE TABLE ${table} AS SELECT *, provider AS type FROM api_keys`);
      await gateway.insert(keyA, { id: 'sample-row' }, table);
      const { environment, made } = await completeEnvironment({ DATABASE_URL: url });
      expect(masterKeysAmong([...made, ...Object.keys(environment)])).toEqual([]);
      expect(() => readServerConfig(environment)).toThrow('PROVARA_MASTER_KEY is required for API key encryption');
    },
  );

  it('for a local database that holds rows of others, beside the key that is given', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'sample-row' });
    const { made } = await completeEnvironment({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA });
    expect(masterKeysAmong(made)).toEqual([]);
  });

  it('for rows whose own keys were lost with the file', async () => {
    await storeSample();
    rmSync(file);
    const { made } = await completeEnvironment({});
    expect(masterKeysAmong(made)).toEqual([]);
  });

  it('for a database without rows whose active key was lost with the file', async () => {
    await start(async () => undefined);
    rmSync(file);
    const { made } = await completeEnvironment({});
    expect(masterKeysAmong(made)).toEqual([]);
  });

  it('for rows of others while the file holds the keys of another database', async () => {
    const { environment: own } = await completeEnvironment({});
    const written = contents();
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'sample-row' });
    const { environment, made } = await completeEnvironment({ DATABASE_URL: url });
    expect(made).toEqual([]);
    expect(environment.PROVARA_MASTER_KEY).toBe(own.PROVARA_MASTER_KEY);
    expect(contents()).toBe(written);
  });

  it('where the database cannot be what the URL says: that is for the configuration to refuse', async () => {
    for (const DATABASE_URL of ['file::memory:', 'mysql://sample.example', `file:${temporaryFolder()}`]) {
      const given = { DATABASE_URL };
      expect(await completeEnvironment(given)).toMatchObject({ environment: given, made: [], added: [] });
    }
    expect(existsSync(file)).toBe(false);
  });
});

describe('the environment of the command line', () => {
  it('is completed from the file, which stays as it is, and a variable that is set wins', async () => {
    const { environment } = await completeEnvironment({});
    const written = contents();
    expect(keptEnvironment({})).toEqual(environment);
    expect(keptEnvironment({ PROVARA_MASTER_KEY: keyA })).toEqual({ ...environment, PROVARA_MASTER_KEY: keyA });
    expect(keptEnvironment({ PROVARA_MASTER_KEY_FILE: '/sample/path' }).PROVARA_MASTER_KEY).toBeUndefined();
    expect(contents()).toBe(written);
  });

  it('is left alone in production, and where there is no file', async () => {
    expect(keptEnvironment({ SAMPLE: 'sample' })).toEqual({ SAMPLE: 'sample' });
    expect(existsSync('data')).toBe(false);
    await completeEnvironment({});
    expect(keptEnvironment({ NODE_ENV: 'production' })).toEqual({ NODE_ENV: 'production' });
  });
});
