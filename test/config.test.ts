/** The environment is read whole or refused whole: every problem at once, each by the name of its variable and none by its value. */

import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { databaseUrlProblem, isProduction, readCliConfig, readServerConfig } from '../src/config.ts';
import { parseMasterKey } from '../src/crypto/master-key.ts';
import { type Environment, SettingsError } from '../src/settings.ts';
import { databaseFilePath } from '../src/store/database.ts';
import { environmentFor, keyA, keyB, keyIdA, keyIdB, keyIdC, temporaryFolder } from './support/vault.ts';

const requiredKey = 'PROVARA_MASTER_KEY is required for API key encryption';
const remote = 'libsql://sample.example';

/** An environment that is whole, but for what is given. */
function settings(changed: Environment = {}): Environment {
  return environmentFor(remote, changed);
}

function problemsOf(read: () => unknown): readonly string[] {
  try {
    read();
  } catch (error) {
    if (error instanceof SettingsError) return error.problems;
    throw error;
  }
  return [];
}

function serverProblems(changed: Environment): readonly string[] {
  return problemsOf(() => readServerConfig(settings(changed)));
}

function sourcesByKeyId(environment: Environment): Record<string, readonly string[]> {
  return Object.fromEntries(readCliConfig(environment).keyring.entries.map(({ key, sources }) => [key.id, sources]));
}

/** The path of a file with these contents. */
function fileWith(contents: string): string {
  const path = join(temporaryFolder(), 'secret');
  writeFileSync(path, contents);
  return path;
}

describe('a whole environment', () => {
  it('is read into one frozen configuration, with the defaults outside production', () => {
    const config = readServerConfig(settings({ HOST: undefined, PORT: undefined, VAULT_AUDIT_LOG: undefined }));
    expect(Object.isFrozen(config)).toBe(true);
    expect(config).toMatchObject({
      database: { url: remote, authToken: undefined },
      coverage: { encryptedTables: ['api_keys'], exemptTables: [] },
      atomicRows: 10_000,
      rotationDueDays: 365,
      snapshotDir: null,
      requireFormat2: false,
      logLevel: 'info',
      audit: { log: 'stdout', anchorSeconds: 300 },
      limits: { authFailures: 30, decrypts: 0, eventLoopDelayMs: 1_000 },
      isProduction: false,
      host: '127.0.0.1',
      port: 4100,
    });
  });

  it('in production listens on every address of both families unless told otherwise', () => {
    expect(readServerConfig(settings({ NODE_ENV: 'production', HOST: undefined }))).toMatchObject({
      isProduction: true,
      host: '::',
    });
    expect(readServerConfig(settings({ NODE_ENV: 'production', HOST: '0.0.0.0' })).host).toBe('0.0.0.0');
  });

  it('gives every setting its value', () => {
    const config = readServerConfig(
      settings({
        DATABASE_AUTH_TOKEN: 'sample-database-token',
        HOST: '::1',
        PORT: '65535',
        LOG_LEVEL: 'silent',
        VAULT_ENCRYPTED_TABLES: 'api_keys, context_connector_credentials',
        VAULT_EXEMPT_TABLES: 'api_keys_backup',
        VAULT_ROTATION_ATOMIC_ROWS: '0',
      }),
    );
    expect(config).toMatchObject({
      database: { url: remote, authToken: 'sample-database-token' },
      coverage: { encryptedTables: ['api_keys', 'context_connector_credentials'], exemptTables: ['api_keys_backup'] },
      atomicRows: 0,
      logLevel: 'silent',
      host: '::1',
      port: 65_535,
    });
  });

  it('takes a variable that is empty for one that is not set', () => {
    const config = readServerConfig(settings({ PORT: '', LOG_LEVEL: '', VAULT_EXEMPT_TABLES: '', PROVARA_MASTER_KEY_NEW: '' }));
    expect(config).toMatchObject({ port: 4100, logLevel: 'info', coverage: { exemptTables: [] } });
    expect(config.keyring.entries).toHaveLength(1);
  });

  it('for the command line needs neither tokens nor a master key', () => {
    const config = readCliConfig({ DATABASE_URL: remote });
    expect(Object.isFrozen(config)).toBe(true);
    expect(config.keyring.entries).toEqual([]);
  });
});

describe('an environment that is not whole', () => {
  it('in production has a problem for each of the settings that must be given', () => {
    const problems = problemsOf(() => readServerConfig({ NODE_ENV: 'production' }));
    expect(problems).toContain(requiredKey);
    for (const name of ['DATABASE_URL', 'VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS']) {
      expect(problems).toContainEqual(expect.stringMatching(new RegExp(`^${name} is required`)));
    }
  });

  it.each(['Production', 'production ', ' PRODUCTION'])('that says %j is none of development', (NODE_ENV) => {
    const problems = ['NODE_ENV must be spelt production, in small letters and without white space.'];
    expect(problemsOf(() => isProduction({ NODE_ENV }))).toEqual(problems);
    expect(serverProblems({ NODE_ENV })).toEqual(problems);
  });

  it.each(['STDOUT', 'stdout ', ' ', 'stderr', ' audit.log'])('that puts the audit to %j is refused', (VAULT_AUDIT_LOG) => {
    expect(serverProblems({ VAULT_AUDIT_LOG })).toEqual(['VAULT_AUDIT_LOG must be stdout, or the path of a file.']);
  });

  it('that puts the audit into a folder that is not there is refused', () => {
    for (const folder of [join(temporaryFolder(), 'none'), fileWith('no folder')]) {
      expect(serverProblems({ VAULT_AUDIT_LOG: join(folder, 'audit.log') })).toEqual([
        'VAULT_AUDIT_LOG must be stdout, or name a file in an existing folder.',
      ]);
    }
  });

  it('that puts the audit into the database is refused', () => {
    const folder = temporaryFolder();
    const path = join(folder, 'vault.db');
    const link = join(folder, 'link');
    writeFileSync(path, '');
    symlinkSync(path, link);
    for (const VAULT_AUDIT_LOG of [path, `${path}-wal`, `${path}-shm`, link]) {
      const problems = serverProblems({ DATABASE_URL: `file:${path}`, VAULT_AUDIT_LOG });
      expect(problems, VAULT_AUDIT_LOG).toEqual(['VAULT_AUDIT_LOG names the database: name another file.']);
    }
  });

  it('on the command line in production must name its database', () => {
    const problems = problemsOf(() => readCliConfig({ NODE_ENV: 'production' }));
    expect(problems).toContainEqual(expect.stringMatching(/^DATABASE_URL is required in production/));
  });

  it('without the primary master key is refused even where another key is given', () => {
    expect(serverProblems({ PROVARA_MASTER_KEY: undefined, PROVARA_MASTER_KEY_OLD: keyB })).toEqual([requiredKey]);
  });

  it('with a table both covered and exempt is refused', () => {
    expect(serverProblems({ VAULT_ENCRYPTED_TABLES: 'api_keys,others', VAULT_EXEMPT_TABLES: 'Others' })).toEqual([
      'VAULT_EXEMPT_TABLES names a table that is covered: api_keys, or one of VAULT_ENCRYPTED_TABLES.',
    ]);
  });

  it('lists every problem at once, by the name of the variable and never by its value', () => {
    const bad: Environment = {
      DATABASE_URL: 'sample-bad-1://user:sample-bad-2@host',
      PORT: 'sample-bad-3',
      LOG_LEVEL: 'sample-bad-4',
      VAULT_ENCRYPTED_TABLES: 'api_keys,sample-bad-5',
      VAULT_EXEMPT_TABLES: '"sample-bad-6"',
      VAULT_ROTATION_ATOMIC_ROWS: 'sample-bad-7',
      VAULT_GATEWAY_TOKENS: 'sample-bad-8',
      VAULT_ADMIN_TOKENS: 'operator:sha256:sample-bad-9',
      PROVARA_MASTER_KEY_NEW_FILE: '/sample-bad-10/none',
    };
    const problems = serverProblems(bad);
    for (const name of Object.keys(bad)) expect(problems).toContainEqual(expect.stringMatching(new RegExp(`^${name}\\b`)));
    expect(problems).toHaveLength(Object.keys(bad).length);
    expect(() => readServerConfig(settings(bad))).toThrow(problems.join('\n'));
    expect(problems.join('\n')).not.toContain('sample-bad');
  });

  it('never shows a value, whichever variable holds it and whatever is wrong with it', () => {
    const names = [
      'DATABASE_URL',
      'DATABASE_AUTH_TOKEN',
      'PROVARA_MASTER_KEY',
      'PROVARA_MASTER_KEY_FILE',
      'PROVARA_MASTER_KEY_NEW_FILE',
      'VAULT_GATEWAY_TOKENS',
      'VAULT_ADMIN_TOKENS',
      'VAULT_ENCRYPTED_TABLES',
      'VAULT_ROTATION_ATOMIC_ROWS',
      'PORT',
      'LOG_LEVEL',
    ];
    const value = fc
      .tuple(
        fc.constantFrom('', 'libsql://', 'file:', 'name:', 'name:sha256:', 'api_keys,', '%'),
        fc.constantFrom('', ':', ',', '%', '/'),
      )
      .map(([before, after]) => `${before}SecretSample${after}`);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...names), value), { minLength: 1, maxLength: 6 }), (changed) => {
        expect(serverProblems(Object.fromEntries(changed)).join('\n')).not.toContain('SecretSample');
      }),
      { numRuns: 200 },
    );
  });
});

describe('master keys', () => {
  it('come from each of the three variables, or from the files they name', () => {
    const given = { DATABASE_URL: remote, PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW_FILE: fileWith(keyB) };
    expect(sourcesByKeyId({ ...given, PROVARA_MASTER_KEY_OLD: 'c3'.repeat(32) })).toEqual({
      [keyIdA]: ['PROVARA_MASTER_KEY'],
      [keyIdB]: ['PROVARA_MASTER_KEY_NEW'],
      [keyIdC]: ['PROVARA_MASTER_KEY_OLD'],
    });
  });

  it.each(['PROVARA_MASTER_KEY', 'PROVARA_MASTER_KEY_NEW', 'PROVARA_MASTER_KEY_OLD'])(
    'are refused when both %s and its _FILE are set, even to the same key',
    (name) => {
      const problems = serverProblems({ [name]: keyA, [`${name}_FILE`]: fileWith(keyA) });
      expect(problems).toContainEqual(expect.stringMatching(new RegExp(`^${name} and ${name}_FILE are both set`)));
    },
  );

  it.each([
    ['none', '', ''],
    ['one newline', '\n', ''],
    ['one newline with its carriage return', '\r\n', ''],
    ['the last of two newlines', '\n\n', '\n'],
    ['a newline, but no white space before it', ' \t\n', ' \t'],
    ['no white space', ' ', ' '],
  ])('lose of the end of a file %s', (_, end, left) => {
    const path = fileWith(`sample passphrase${end}`);
    expect(Object.keys(sourcesByKeyId({ DATABASE_URL: remote, PROVARA_MASTER_KEY_FILE: path }))).toEqual([
      parseMasterKey(`sample passphrase${left}`).id,
    ]);
  });

  it('lose nothing of the beginning of a file', () => {
    const path = fileWith('\n sample passphrase\n');
    expect(Object.keys(sourcesByKeyId({ DATABASE_URL: remote, PROVARA_MASTER_KEY_FILE: path }))).toEqual([
      parseMasterKey('\n sample passphrase').id,
    ]);
  });

  it('count byte for byte in a variable', () => {
    expect(Object.keys(sourcesByKeyId({ DATABASE_URL: remote, PROVARA_MASTER_KEY: `${keyA}\n` }))).toEqual([
      parseMasterKey(`${keyA}\n`).id,
    ]);
  });

  it.each([
    ['that is not there', () => join(temporaryFolder(), 'none')],
    ['that is a folder', temporaryFolder],
    ['that is empty', () => fileWith('')],
    ['that holds a newline alone', () => fileWith('\n')],
  ])('are refused from a file %s', (_, pathOf) => {
    const problems = serverProblems({ PROVARA_MASTER_KEY_NEW_FILE: pathOf() });
    expect(problems).toEqual([expect.stringMatching(/^PROVARA_MASTER_KEY_NEW_FILE names /)]);
  });
});

describe('the database', () => {
  it.each([
    'libsql://sample.example',
    'http://127.0.0.1:8080',
    'https://sample.example',
    'ws://[::1]:8080',
    'wss://sample.example',
  ])('may be a server: %s', (url) => {
    expect(databaseUrlProblem(url)).toBeNull();
  });

  it('may be a file that is there, or one that is not yet there in a folder that is', () => {
    const path = fileWith('');
    for (const url of [`file:${path}`, `file://${path}`, `file://localhost${path}`, `file:${path}-new`]) {
      expect(databaseUrlProblem(url), url).toBeNull();
      expect(databaseFilePath(url).startsWith(path), url).toBe(true);
    }
  });

  it('is found by its %-decoded path', () => {
    const folder = join(temporaryFolder(), 'a folder');
    mkdirSync(folder);
    const encoded = folder.replace(' ', '%20');
    for (const url of [`file:${encoded}/vault.db`, `file://${encoded}/vault.db`]) {
      expect(databaseUrlProblem(url), url).toBeNull();
      expect(databaseFilePath(url), url).toBe(join(folder, 'vault.db'));
    }
  });

  it('is refused with credentials in it, which would stand in errors, and so is a token that no header can hold', () => {
    for (const url of [
      'http://user:sample@127.0.0.1:8080',
      'libsql://sample@db.turso.io',
      'libsql://db.turso.io?authToken=sample',
    ]) {
      expect(serverProblems({ DATABASE_URL: url })).toEqual(['DATABASE_URL must not hold credentials: set DATABASE_AUTH_TOKEN.']);
    }
    expect(serverProblems({ DATABASE_AUTH_TOKEN: 'samplé' })).toEqual(['DATABASE_AUTH_TOKEN must be printable ASCII.']);
  });

  it('is refused where its path is a directory', () => {
    const folder = temporaryFolder();
    for (const url of [`file:${folder}`, `file:${folder}/`, `file://${folder}`, 'file:.', 'file:./']) {
      expect(serverProblems({ DATABASE_URL: url }), url).toEqual(['DATABASE_URL names a directory, not a database file.']);
    }
  });

  it.each([' file:vault.db', 'file:vault.db ', 'http://127.0.0.1:8080\n'])('is refused with white space around it: %j', (url) => {
    expect(serverProblems({ DATABASE_URL: url })).toEqual(['DATABASE_URL must not begin or end with white space.']);
  });

  it('is refused where its folder does not exist', () => {
    expect(serverProblems({ DATABASE_URL: `file:${temporaryFolder()}/none/vault.db` })).toEqual([
      'DATABASE_URL names a file in a directory that does not exist.',
    ]);
  });

  it.each([
    'file:',
    'file::memory:',
    'file::memory:?cache=shared',
    'file://',
    'file:///',
    'file:?sample',
    ':memory:',
    'file:%3Amemory%3A',
  ])('is refused where it would be in memory, or have no name: %s', (url) => {
    expect(serverProblems({ DATABASE_URL: url })).toEqual([expect.stringMatching(/^DATABASE_URL must /)]);
  });

  it.each([
    'vault.db',
    '/vault.db',
    'mysql://sample.example',
    'http://',
    'libsql://sample.example:port',
    'file:%ZZ',
    'file:///%00',
    'file://sample.example/vault.db',
  ])('is refused where its URL is not one: %s', (url) => {
    expect(serverProblems({ DATABASE_URL: url })).toEqual([expect.stringMatching(/^DATABASE_URL (must begin|is not a valid)/)]);
  });
});

describe('tokens', () => {
  const digest = (token: string): Buffer => createHash('sha256').update(token, 'utf8').digest();
  const hexDigest = (token: string): string => digest(token).toString('hex');
  const gatewayTokens = (text: string) =>
    readServerConfig(settings({ VAULT_GATEWAY_TOKENS: text })).tokens.filter(({ role }) => role === 'gateway');

  it('of a role may be several, each with its name, kept as a digest alone', () => {
    const { tokens } = readServerConfig(
      settings({ VAULT_GATEWAY_TOKENS: 'blue:sample-1, green:sample-2', VAULT_ADMIN_TOKENS: 'eve:sample-3' }),
    );
    expect(tokens).toEqual([
      { name: 'blue', role: 'gateway', digest: digest('sample-1'), tenants: null },
      { name: 'green', role: 'gateway', digest: digest('sample-2'), tenants: null },
      { name: 'eve', role: 'admin', digest: digest('sample-3'), tenants: null },
    ]);
  });

  it('may be given as their SHA-256, in either case', () => {
    for (const hex of [hexDigest('sample-1'), hexDigest('sample-1').toUpperCase()]) {
      expect(gatewayTokens(`blue:sha256:${hex}`)).toMatchObject([{ name: 'blue', digest: digest('sample-1') }]);
    }
  });

  it('may hold any of the separators, %-encoded', () => {
    expect(gatewayTokens('bl%3Aue:sample%2C1,green:%40sample%7C%3A2%25')).toMatchObject([
      { name: 'bl:ue', digest: digest('sample,1') },
      { name: 'green', digest: digest('@sample|:2%') },
    ]);
  });

  it('that look like a digest once decoded are tokens', () => {
    expect(gatewayTokens('blue:sha256%3Asample')).toMatchObject([{ name: 'blue', digest: digest('sha256:sample') }]);
  });

  it('may have a name that holds any of the separators, %-encoded', () => {
    expect(gatewayTokens('bl%40u%7Ce:sample-1')).toMatchObject([{ name: 'bl@u|e' }]);
  });

  it.each([
    ['no name', ':sample-secret'],
    ['no token', 'blue:'],
    ['no separator', 'sample-secret'],
    ['a digest that is too short', `blue:sha256:${'0'.repeat(63)}`],
    ['a digest that is not hexadecimal', `blue:sha256:${'g'.repeat(64)}`],
    ['a broken %-encoding in the name', 'bl%ue:sample-secret'],
    ['a broken %-encoding in the token', 'blue:%E9'],
    ['white space in the token', 'blue:sample secret'],
    ['letters in the token that no header carries', 'blue:sämple-secret'],
    ['a control character in the token', 'blue:sample%01secret'],
    ['a colon in the token, as in a digest whose prefix has a slip', `blue:SHA256:${'0'.repeat(64)}`],
  ])('are refused, by their place alone, with %s', (_, entry) => {
    expect(serverProblems({ VAULT_GATEWAY_TOKENS: `green:sample-1,${entry}` })).toEqual([
      expect.stringMatching(/^VAULT_GATEWAY_TOKENS: entry 2 is not name:token/),
    ]);
  });

  it('are refused where a list holds none', () => {
    for (const text of [',', ' ', ' , ']) {
      expect(serverProblems({ VAULT_ADMIN_TOKENS: text }), JSON.stringify(text)).toEqual([
        expect.stringMatching(/^VAULT_ADMIN_TOKENS /),
      ]);
    }
  });

  it.each([
    ['both as they are', 'sample-1', 'sample-1'],
    ['one as its digest', `sha256:${hexDigest('sample-1')}`, 'sample-1'],
    ['both as digests, in different case', `sha256:${hexDigest('sample-1')}`, `sha256:${hexDigest('sample-1').toUpperCase()}`],
    ['one %-encoded', 'sampl%65-1', 'sample-1'],
  ])('are refused in two roles: %s', (_, gateway, admin) => {
    const problems = serverProblems({
      VAULT_GATEWAY_TOKENS: `one:sample-0,two:${gateway}`,
      VAULT_ADMIN_TOKENS: `operator:${admin}`,
    });
    expect(problems).toEqual([expect.stringMatching(/^VAULT_GATEWAY_TOKENS and VAULT_ADMIN_TOKENS share a token/)]);
  });
});

describe('tokens of further roles', () => {
  it('are optional, and have the role of their variable', () => {
    const { tokens } = readServerConfig(
      settings({ VAULT_WRITER_TOKENS: 'dashboard:sample-4', VAULT_METRICS_TOKENS: 'scraper:sample-5' }),
    );
    expect(tokens.map(({ name, role }) => `${name} ${role}`)).toEqual([
      'gateway gateway',
      'operator admin',
      'dashboard writer',
      'scraper metrics',
    ]);
  });

  it.each(['VAULT_WRITER_TOKENS', 'VAULT_METRICS_TOKENS'])('are refused where %s is set and holds none', (name) => {
    expect(serverProblems({ [name]: ',' })).toEqual([expect.stringMatching(new RegExp(`^${name} `))]);
  });

  it('are refused in two roles, whichever the two', () => {
    const names = ['VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS', 'VAULT_WRITER_TOKENS', 'VAULT_METRICS_TOKENS'];
    for (const [index, one] of names.entries()) {
      for (const other of names.slice(index + 1)) {
        expect(serverProblems({ [one]: 'a:sample-shared', [other]: 'b:sample-shared' })).toEqual([
          `${one} and ${other} share a token: one token has one role.`,
        ]);
      }
    }
  });
});

describe('tokens limited to tenants', () => {
  const tenantsOf = (text: string) =>
    readServerConfig(settings({ VAULT_WRITER_TOKENS: text })).tokens.find(({ role }) => role === 'writer')?.tenants;

  it('name them after the token’s name, %-encoded where they hold a separator', () => {
    expect(tenantsOf('blue@acme:sample-1')).toEqual(new Set(['acme']));
    expect(tenantsOf('blue@acme|b%7Cc%3A%2C%40:sample-1')).toEqual(new Set(['acme', 'b|c:,@']));
    expect(tenantsOf('blue:sample-1')).toBeNull();
  });

  it.each([
    'blue@:sample-1',
    'blue@acme|:sample-1',
    'blue@|acme:sample-1',
    'blue@a@b:sample-1',
    '@acme:sample-1',
    'blue@%E9:sample-1',
    `blue@${'x'.repeat(256)}:sample-1`,
    'blue@a%00b:sample-1',
  ])('are refused, rather than unlimited, where a tenant or the name is missing or can be nobody’s: %s', (entry) => {
    for (const name of ['VAULT_GATEWAY_TOKENS', 'VAULT_WRITER_TOKENS']) {
      expect(serverProblems({ [name]: entry })).toEqual([
        expect.stringMatching(new RegExp(`^${name}: entry 1 is not name:token`)),
      ]);
    }
  });

  it('are refused among admin and metrics tokens, which cannot be limited', () => {
    for (const name of ['VAULT_ADMIN_TOKENS', 'VAULT_METRICS_TOKENS']) {
      expect(serverProblems({ [name]: 'blue@acme:sample-1' })).toEqual([
        expect.stringMatching(new RegExp(`^${name}: entry 1 is not name:token`)),
      ]);
    }
  });

  it('are refused where one token stands twice, which would leave its tenants in doubt', () => {
    expect(serverProblems({ VAULT_WRITER_TOKENS: 'blue@acme:sample-1,green@other:sample-1' })).toEqual([
      expect.stringMatching(/^VAULT_WRITER_TOKENS holds one token twice/),
    ]);
  });
});

describe('a name that two tokens of a role have', () => {
  it('is refused, because the log and the audit name tokens by it', () => {
    expect(serverProblems({ VAULT_GATEWAY_TOKENS: 'blue:sample-1,green:sample-2,bl%75e:sample-3' })).toEqual([
      'VAULT_GATEWAY_TOKENS: entries 1 and 3 have the same name.',
    ]);
    expect(serverProblems({ VAULT_GATEWAY_TOKENS: 'blue:sample-1,blue:sample-2' })).toEqual([
      'VAULT_GATEWAY_TOKENS: entries 1 and 2 have the same name.',
    ]);
  });
});

describe('a weak token', () => {
  const weak = [
    ['short', 'k7Qz93mBv1XsW2y'],
    ['one character again and again', 'a'.repeat(40)],
    ['a few characters again and again', 'abcabcabcabcabcabcabc'],
    ['five characters again and again', 'k7Qz9k7Qz9k7Qz9k7Qz9'],
    ['a default', 'changeme-changeme'],
    ['a default with a number', 'my-secret-token-1234567'],
    ['a default in capitals', 'CHANGE_ME_ADMIN_TOKEN'],
    ['a default, %-encoded', 'vault%2Dgateway%2Dpassword'],
  ] as const;

  it.each(weak)('is refused in production, by its place and never by its value: %s', (_, token) => {
    for (const name of ['VAULT_GATEWAY_TOKENS', 'VAULT_ADMIN_TOKENS', 'VAULT_WRITER_TOKENS', 'VAULT_METRICS_TOKENS']) {
      const problems = serverProblems({ NODE_ENV: 'production', [name]: `good:k7Qz93mBv1XsW2yL,weak:${token}` });
      expect(problems).toEqual([expect.stringMatching(new RegExp(`^${name}: the token of entry 2 `))]);
      expect(problems.join()).not.toContain(token);
    }
  });

  it.each(weak)('is taken outside production: %s', (_, token) => {
    expect(serverProblems({ VAULT_WRITER_TOKENS: `weak:${token}` })).toEqual([]);
  });

  it('is never one that was drawn at random, as base64url or as hex', () => {
    for (let draw = 0; draw < 500; draw += 1) {
      for (const encoding of ['base64url', 'hex'] as const) {
        const token = randomBytes(24).toString(encoding);
        expect(serverProblems({ NODE_ENV: 'production', VAULT_WRITER_TOKENS: `good:${token}` }), token).toEqual([]);
      }
    }
  });
});

describe('numbers, names and choices', () => {
  it.each(['-1', '65536', '80.5', '0x50', '8e1', ' 80', '80 ', '99999999999999999999', 'http'])('refuse the port %j', (PORT) => {
    expect(serverProblems({ PORT })).toEqual(['PORT must be a whole number from 0 to 65535.']);
  });

  it.each(['-1', '1000001', '1.5', 'all'])('refuse %j rows in one commit', (VAULT_ROTATION_ATOMIC_ROWS) => {
    expect(serverProblems({ VAULT_ROTATION_ATOMIC_ROWS })).toEqual([
      expect.stringMatching(/^VAULT_ROTATION_ATOMIC_ROWS must be /),
    ]);
  });

  it.each(['INFO', 'verbose', 'info '])('refuse the log level %j, and name those there are', (LOG_LEVEL) => {
    expect(serverProblems({ LOG_LEVEL })).toEqual(['LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent.']);
  });

  it.each(['1', 'yes', 'TRUE'])('refuse %j for whether format 2 is required', (VAULT_REQUIRE_FORMAT_2) => {
    expect(serverProblems({ VAULT_REQUIRE_FORMAT_2 })).toEqual(['VAULT_REQUIRE_FORMAT_2 must be one of true, false.']);
  });

  it.each(['VAULT_LIMIT_AUTH_FAILURES', 'VAULT_LIMIT_DECRYPTS', 'VAULT_LIMIT_EVENT_LOOP_DELAY'])(
    'refuse a limit that is none: %s',
    (name) => {
      for (const limit of ['-1', 'none', '1.5', '99999999999']) {
        expect(serverProblems({ [name]: limit })).toEqual([expect.stringMatching(new RegExp(`^${name} must be a whole number`))]);
      }
    },
  );

  it('exempt a copy whatever it is called', () => {
    const config = readServerConfig(
      settings({ VAULT_EXEMPT_TABLES: 'api_keys-2026-11,1st.copy,Schlüssel,api_keys copy 2026,old%2C 5%25' }),
    );
    expect(config.coverage.exemptTables).toEqual(['api_keys-2026-11', '1st.copy', 'Schlüssel', 'api_keys copy 2026', 'old, 5%']);
    expect(serverProblems({ VAULT_ENCRYPTED_TABLES: 'api_keys,1st' })).toHaveLength(1);
  });

  it.each(['api_keys;', 'api_keys,"quoted"', 'api_keys,%E9', "api_keys,a'b"])('refuse the tables %j', (tables) => {
    expect(serverProblems({ VAULT_ENCRYPTED_TABLES: tables })).toContainEqual(
      'VAULT_ENCRYPTED_TABLES must be table names, comma-separated.',
    );
    expect(serverProblems({ VAULT_EXEMPT_TABLES: tables })).toContainEqual(
      'VAULT_EXEMPT_TABLES must be table names, comma-separated.',
    );
  });

  it.each(['other_table', ','])('refuse covered tables without api_keys: %j', (tables) => {
    expect(serverProblems({ VAULT_ENCRYPTED_TABLES: tables })).toEqual(['VAULT_ENCRYPTED_TABLES must include api_keys.']);
  });
});

describe('VAULT_SNAPSHOT_DIR', () => {
  it('is the absolute path of an existing folder, or a problem that names it and no value', () => {
    const folder = temporaryFolder();
    const database = { DATABASE_URL: `file:${join(folder, 'vault.db')}` };
    expect(readCliConfig({ ...database, VAULT_SNAPSHOT_DIR: folder }).snapshotDir).toBe(folder);
    expect(readCliConfig(database).snapshotDir).toBeNull();
    const problem = 'VAULT_SNAPSHOT_DIR must name an existing folder that can be written.';
    for (const path of [join(folder, 'nothing'), fileWith('no folder')]) {
      expect(serverProblems({ VAULT_SNAPSHOT_DIR: path })).toEqual([problem]);
    }
  });
});
