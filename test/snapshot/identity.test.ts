/** A restore knows a row by its primary key of several columns, or by all that is not ciphertext: never by its row id, which SQLite gives away again. */

import { describe, expect, it } from 'vitest';
import { type GatewayDatabase, gatewayOpen, gatewaySeal } from '../support/gateway.ts';
import { bytesOf, linesOf, sendSnapshot, signed, takeSnapshot } from '../support/snapshot.ts';
import { keyA, keyB, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const columns = 'tenant_id text, kind text, encrypted_value text, iv text, auth_tag text';
const withKey = `${columns}, PRIMARY KEY (tenant_id, kind)`;
const keyless = columns;
const shapes = [
  ['a primary key of two columns', withKey],
  ['no primary key', keyless],
  ['no primary key, but a unique index', `${columns}, UNIQUE (tenant_id, kind)`],
] as const;

async function add(
  database: GatewayDatabase,
  kind: string,
  value = `sample-${kind}`,
  tenant: string | null = 't1',
): Promise<void> {
  const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, value);
  await database.run('INSERT INTO cc VALUES (?, ?, ?, ?, ?)', [tenant, kind, encrypted_value, iv, auth_tag]);
}

async function start(definition: string, rows: readonly string[] = ['slack', 'notion', 'github']) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.run(`CREATE TABLE cc (${definition})`);
  for (const kind of rows) await add(database, kind);
  const vault = await startVault(url, {
    PROVARA_MASTER_KEY_NEW: keyB,
    VAULT_ENCRYPTED_TABLES: 'api_keys,cc',
    VAULT_SNAPSHOT_DIR: temporaryFolder(),
  });
  return { database, vault };
}

/** As a migration does that SQLite has no ALTER TABLE for. */
async function recreate(database: GatewayDatabase, definition: string, order = 'rowid'): Promise<void> {
  await database.client.batch(
    [
      `CREATE TABLE anew (${definition})`,
      `INSERT INTO anew SELECT * FROM cc ORDER BY ${order}`,
      'DROP TABLE cc',
      'ALTER TABLE anew RENAME TO cc',
    ],
    'write',
  );
}

/** As VACUUM does, which not every engine lets others do: once the first row is gone, each of the others has the row id of the one before. */
async function pack(database: GatewayDatabase): Promise<void> {
  await database.run('UPDATE cc SET rowid = rowid - 1');
}

/** What the rows hold, sorted; null where one does not open. */
async function values(database: GatewayDatabase): Promise<(string | null)[][]> {
  const opened = (await database.rows('cc')).map((row) => {
    const open = (key: string) => gatewayOpen(key, row as unknown as Parameters<typeof gatewayOpen>[1]);
    for (const key of [keyA, keyB]) {
      try {
        return [String(row.kind), open(key)];
      } catch {}
    }
    return [String(row.kind), null];
  });
  return opened.sort();
}

const valuesOf = (...kinds: string[]) => kinds.sort().map((kind) => [kind, `sample-${kind}`]);

describe.each(shapes)('of a table with %s', (_shape, definition) => {
  it('a merge puts back a row whose row id another has by now', async () => {
    const { database, vault } = await start(definition);
    const snapshot = await takeSnapshot(vault);
    await database.run("DELETE FROM cc WHERE kind = 'github'");
    await add(database, 'jira');
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 2 });
    expect(await values(database)).toEqual(valuesOf('slack', 'notion', 'github', 'jira'));
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 3 });
  });

  it('a merge never overwrites a damaged row that the snapshot has not', async () => {
    const { database, vault } = await start(definition);
    const snapshot = await takeSnapshot(vault);
    await database.run("DELETE FROM cc WHERE kind = 'github'");
    await add(database, 'jira');
    await database.run("UPDATE cc SET auth_tag = 'c0ffee' WHERE kind = 'jira'");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 2 });
    expect(await values(database)).toEqual([...valuesOf('github'), ['jira', null], ...valuesOf('notion', 'slack')]);
  });

  it.each(['merge', 'replace'])(
    'a %s goes by what the rows are where they have been added again in another order',
    async (mode) => {
      const { database, vault } = await start(definition);
      const snapshot = await takeSnapshot(vault);
      await database.run("DELETE FROM cc WHERE kind <> 'slack'");
      for (const kind of ['github', 'notion']) await add(database, kind, 'sample-newer');
      const counts = mode === 'merge' ? { restored: 0, kept: 3 } : { restored: 3, kept: 0 };
      expect(await sendSnapshot(vault, snapshot, mode)).toEqual({ status: 200, body: counts });
      const newer = [['github', 'sample-newer'], ['notion', 'sample-newer'], ...valuesOf('slack')];
      expect(await values(database)).toEqual(mode === 'merge' ? newer : valuesOf('slack', 'notion', 'github'));
    },
  );

  it.each(['recreated', 'packed'])('a merge puts back the row that was deleted before the table was %s', async (how) => {
    const { database, vault } = await start(definition);
    const snapshot = await takeSnapshot(vault);
    await database.run("DELETE FROM cc WHERE kind = 'slack'");
    if (how === 'recreated') await recreate(database, definition);
    else await pack(database);
    expect(await sendSnapshot(vault, snapshot)).toEqual({ status: 200, body: { restored: 1, kept: 2 } });
    expect(await values(database)).toEqual(valuesOf('slack', 'notion', 'github'));
  });

  it('a replacement of one that was recreated in another order makes it what the snapshot holds', async () => {
    const { database, vault } = await start(definition);
    const snapshot = await takeSnapshot(vault);
    await recreate(database, definition, 'kind');
    await database.run("UPDATE cc SET auth_tag = 'no hex' WHERE kind = 'slack'");
    await database.run("DELETE FROM cc WHERE kind = 'notion'");
    await add(database, 'jira');
    expect(await sendSnapshot(vault, snapshot, 'replace')).toEqual({ status: 200, body: { restored: 3, kept: 0 } });
    expect(await values(database)).toEqual(valuesOf('slack', 'notion', 'github'));
  });

  it('a merge knows the rows of one that was recreated after a rotation', async () => {
    const { database, vault } = await start(definition);
    const snapshot = await takeSnapshot(vault);
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
    await database.run("DELETE FROM cc WHERE kind = 'slack'");
    await recreate(database, definition);
    await database.run("UPDATE cc SET iv = '' WHERE kind = 'notion'");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 2, kept: 1 });
    expect(await values(database)).toEqual(valuesOf('slack', 'notion', 'github'));
  });

  it.each(['merge', 'replace'])('a %s into an emptied one brings the row ids back too', async (mode) => {
    const { database, vault } = await start(definition);
    await database.run("UPDATE cc SET rowid = -7 WHERE kind = 'notion'");
    const before = await bytesOf(database, 'cc');
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM cc');
    expect((await sendSnapshot(vault, snapshot, mode)).body).toEqual({ restored: 3, kept: 0 });
    expect(await bytesOf(database, 'cc')).toEqual(before);
  });

  it.each(['merge', 'replace'])('a %s loses none of several rows that are equal but for the ciphertext', async (mode) => {
    const { database, vault } = await start(definition, []);
    for (const value of ['sample-1', 'sample-2', 'sample-2', 'sample-3']) await add(database, 'slack', value, null);
    await database.run('INSERT INTO cc SELECT * FROM cc WHERE rowid = 1');
    const whole = await values(database);
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM cc WHERE rowid < 3');
    await recreate(database, definition);
    await add(database, 'slack', 'sample-newer', null);
    await database.run("UPDATE cc SET auth_tag = 'no hex' WHERE rowid = 2");
    expect((await sendSnapshot(vault, snapshot, mode)).body).toEqual(
      mode === 'merge' ? { restored: 3, kept: 2 } : { restored: 5, kept: 0 },
    );
    const beside =
      mode === 'merge'
        ? [
            ['slack', 'sample-newer'],
            ['slack', null],
          ]
        : [];
    expect(await values(database)).toEqual([...whole, ...beside].sort());
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 0, kept: 5 });
  });
});

describe('of a table with a primary key of two columns', () => {
  it('a replacement updates in place the rows that stay, which others may refer to', async () => {
    const { database, vault } = await start(withKey);
    await database.run(
      'CREATE TABLE uses (tenant_id text, kind text, FOREIGN KEY (tenant_id, kind) REFERENCES cc ON DELETE CASCADE)',
    );
    await database.run("INSERT INTO uses VALUES ('t1', 'github')");
    const snapshot = await takeSnapshot(vault);
    await recreate(database, withKey, 'kind');
    await database.run("INSERT OR IGNORE INTO uses VALUES ('t1', 'github')");
    const uses = await database.rows('uses');
    expect((await sendSnapshot(vault, snapshot, 'replace')).status).toBe(200);
    expect(await database.rows('uses')).toEqual(uses);
  });

  it.each(['merge', 'replace'])('a %s takes the last of what was read twice under one key', async (mode) => {
    const { database, vault } = await start(withKey);
    const [header = '', ...rows] = linesOf(await takeSnapshot(vault)).slice(0, -1);
    const twice = signed([header, ...rows.map((line) => line.replace('"github"', '"slack"'))], keyA);
    await database.run("DELETE FROM cc WHERE kind <> 'notion'");
    const counts = mode === 'merge' ? { restored: 1, kept: 2 } : { restored: 2, kept: 1 };
    expect((await sendSnapshot(vault, twice, mode)).body).toEqual(counts);
    expect(await values(database)).toEqual([...valuesOf('notion'), ['slack', 'sample-github']]);
  });
});

describe('of a table with a primary key of one column', () => {
  const ofKind = (type: string) => `tenant_id text, kind ${type} PRIMARY KEY, encrypted_value text, iv text, auth_tag text`;

  it.each(['CASCADE', 'RESTRICT'])('a replacement updates in place the rows that stay (ON DELETE %s)', async (action) => {
    const { database, vault } = await start(ofKind('text'));
    const snapshot = await takeSnapshot(vault);
    await database.run("DELETE FROM cc WHERE kind = 'notion'");
    await add(database, 'jira');
    await recreate(database, ofKind('text'), 'kind');
    await database.run(`CREATE TABLE uses (kind text REFERENCES cc ON DELETE ${action})`);
    for (const kind of ['github', 'slack']) await database.run('INSERT INTO uses VALUES (?)', [kind]);
    const uses = await database.rows('uses');
    await database.run("UPDATE cc SET auth_tag = 'no hex' WHERE kind = 'slack'");
    expect(await sendSnapshot(vault, snapshot, 'replace')).toEqual({ status: 200, body: { restored: 3, kept: 0 } });
    expect(await values(database)).toEqual(valuesOf('slack', 'notion', 'github'));
    expect(await database.rows('uses')).toEqual(uses);
  });

  it.each(['text', 'text COLLATE NOCASE', 'blob'])('a replacement takes no key for another that is alike (%s)', async (type) => {
    const { database, vault } = await start(ofKind(type), ['slack', 'notion', '7']);
    await database.run("UPDATE cc SET kind = CAST(kind AS blob) WHERE kind = 'notion'");
    const before = await bytesOf(database, 'cc');
    const snapshot = await takeSnapshot(vault);
    await database.run("UPDATE cc SET kind = 'Slack' WHERE kind = 'slack'");
    await database.run("UPDATE cc SET kind = 'notion' WHERE kind = x'6e6f74696f6e'");
    expect(await sendSnapshot(vault, snapshot, 'replace')).toEqual({ status: 200, body: { restored: 3, kept: 0 } });
    expect(await bytesOf(database, 'cc')).toEqual(before);
  });

  it('a replacement knows rows without a key by their row ids', async () => {
    const { database, vault } = await start(ofKind('text'), ['slack']);
    for (const value of ['sample-1', 'sample-2', 'sample-3']) {
      const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, value);
      await database.run('INSERT INTO cc VALUES (?, NULL, ?, ?, ?)', ['t1', encrypted_value, iv, auth_tag]);
    }
    const whole = await bytesOf(database, 'cc');
    const snapshot = await takeSnapshot(vault);
    await database.run("UPDATE cc SET auth_tag = 'no hex' WHERE rowid = 2");
    await database.run('DELETE FROM cc WHERE rowid = 3');
    await database.run("UPDATE cc SET kind = 'jira' WHERE rowid = 4");
    expect(await sendSnapshot(vault, snapshot, 'replace')).toEqual({ status: 200, body: { restored: 4, kept: 0 } });
    expect(await bytesOf(database, 'cc')).toEqual(whole);
  });
});

describe('of api_keys that were recreated in another order', () => {
  const startTied = async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['a', 'c', 'b']) await database.insert(keyA, { id, name: 'K', value: `sample-${id}` });
    await database.insert(keyA, { id: 'other', name: 'L' });
    const vault = await startVault(url, { VAULT_SNAPSHOT_DIR: temporaryFolder() });
    const decrypt = async () => (await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key?.value;
    return { database, vault, decrypt, snapshot: await takeSnapshot(vault) };
  };
  const reverse = async (database: GatewayDatabase) => {
    await database.run('UPDATE api_keys SET rowid = 100 - rowid');
  };

  it('a replacement leaves that of several rows of one second counting which did', async () => {
    const { database, vault, decrypt, snapshot } = await startTied();
    await reverse(database);
    expect(await decrypt()).toBe('sample-a');
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 4, kept: 0 });
    expect(await decrypt()).toBe('sample-b');
    await database.run("DELETE FROM api_keys WHERE id = 'b'");
    expect(await decrypt()).toBe('sample-c');
  });

  it('so does one that puts back the row which counted', async () => {
    const { database, vault, decrypt, snapshot } = await startTied();
    await database.run("DELETE FROM api_keys WHERE id = 'b'");
    await reverse(database);
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 4, kept: 0 });
    expect(await decrypt()).toBe('sample-b');
  });

  it('a replacement of one that was not recreated leaves the row ids as they are', async () => {
    const { database, vault, snapshot } = await startTied();
    const before = await bytesOf(database, 'api_keys');
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 4, kept: 0 });
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
  });
});

describe('where a program has changed another column of a row and its value since', () => {
  const edit = async (definition: string) => {
    const { database, vault } = await start(`${columns}, updated_at integer${definition}`, []);
    const store = async (kind: string, value: string) => {
      const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, value);
      await database.run('INSERT INTO cc VALUES (?, ?, ?, ?, ?, 1)', ['t1', kind, encrypted_value, iv, auth_tag]);
    };
    for (const kind of ['slack', 'notion']) await store(kind, `sample-${kind}`);
    const snapshot = await takeSnapshot(vault);
    await database.run("DELETE FROM cc WHERE kind = 'slack'");
    await store('slack', 'sample-newer');
    await database.run("UPDATE cc SET updated_at = 2 WHERE kind = 'slack'");
    return { database, answer: await sendSnapshot(vault, snapshot) };
  };

  it.each(['primary key', 'unique'])('a merge leaves it alone, known by a %s', async (kind) => {
    const { database, answer } = await edit(`, ${kind} (tenant_id, kind)`);
    expect(answer).toEqual({ status: 200, body: { restored: 0, kept: 2 } });
    expect(await values(database)).toEqual([...valuesOf('notion'), ['slack', 'sample-newer']]);
  });

  it('a merge puts the former beside it, known by nothing else', async () => {
    const { database, answer } = await edit('');
    expect(answer).toEqual({ status: 200, body: { restored: 1, kept: 1 } });
    expect(await values(database)).toEqual([...valuesOf('notion'), ['slack', 'sample-newer'], ...valuesOf('slack')]);
  });
});

describe('of api_keys without its primary key', () => {
  it('a merge knows rows by their ids, whatever the vault has noted in them since', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run('ALTER TABLE api_keys RENAME TO former');
    await database.run('CREATE TABLE api_keys AS SELECT * FROM former');
    await database.run('DROP TABLE former');
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    for (const name of ['K', 'L'])
      await vault.gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: `sample-${name}` });
    const snapshot = await takeSnapshot(vault);
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
    await database.run("UPDATE api_keys SET last_used_at = 1 WHERE name = 'L'");
    await database.run("DELETE FROM api_keys WHERE name = 'K'");
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 1 });
    const { body } = await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' });
    expect([body.key.value, (await database.rows()).length]).toEqual(['sample-K', 2]);
  });
});

describe('of a table that holds ciphertext alone', () => {
  it('a merge puts back what is not there', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.run('CREATE TABLE cc (encrypted_value text, iv text, auth_tag text)');
    for (const value of ['sample-1', 'sample-2', 'sample-3']) {
      const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, value);
      await database.run('INSERT INTO cc VALUES (?, ?, ?)', [encrypted_value, iv, auth_tag]);
    }
    const vault = await startVault(url, { VAULT_ENCRYPTED_TABLES: 'api_keys,cc' });
    const whole = await values(database);
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM cc WHERE rowid = 1');
    await pack(database);
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 1, kept: 2 });
    expect(await values(database)).toEqual(whole);
  });
});
