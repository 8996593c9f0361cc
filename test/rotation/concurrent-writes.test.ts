/** What others write between the moment a rotation reads a row and the moment it commits is never lost and never overwritten. */

import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { ConfigurationError, RotationInProgressError, StorageUnavailableError } from '../../src/errors.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { cancelRotation } from '../../src/rotation/control.ts';
import type { Rotator, RunningRotation } from '../../src/rotation/engine.ts';
import type { RotationRequest } from '../../src/rotation/plan.ts';
import { buildServices } from '../../src/services.ts';
import { Database } from '../../src/store/database.ts';
import { decodePage, type Replacement, ReplacementWriter } from '../../src/store/encrypted-rows.ts';
import { EncryptedTables, replaceStatement, tableStateStatements } from '../../src/store/encrypted-tables.ts';
import { GuardFailedError, type Statement } from '../../src/store/guards.ts';
import { migrate } from '../../src/store/migrations.ts';
import { type GatewayDatabase, gatewaySeal, gatewayTableSql } from '../support/gateway.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, temporaryDatabase, tester } from '../support/vault.ts';

const gatewayColumns = 'id, name, provider, encrypted_value, iv, auth_tag, tenant_id, created_at, updated_at';

/** The real database, with something that happens right before a batch which replaces ciphertexts. */
class InterruptedDatabase extends Database {
  interruptions: (() => Promise<void>)[] = [];

  override async write(statements: readonly Statement[]): Promise<number[]> {
    const isWriteBack = statements.some(({ sql }) => sql.includes('json_each') && sql.includes('SET encrypted_value'));
    const interruption = isWriteBack ? this.interruptions.shift() : undefined;
    await interruption?.();
    return super.write(statements);
  }
}

/** A replica takes an unfinished rotation up by itself when it starts, and may be about it. */
async function startOnceFree(rotator: Rotator, request: RotationRequest): Promise<RunningRotation> {
  for (;;) {
    try {
      return await rotator.start(request);
    } catch (error) {
      if (!(error instanceof RotationInProgressError)) throw error;
      await sleep(20);
    }
  }
}

async function interruptedRotation(
  url: string,
  gateway: GatewayDatabase,
  atomicRows: string,
  interruptions: (() => Promise<void>)[],
  request: RotationRequest = {},
  others: Record<string, string> = {},
) {
  const settings = {
    ...others,
    DATABASE_URL: url,
    PROVARA_MASTER_KEY: keyA,
    PROVARA_MASTER_KEY_NEW: keyB,
    VAULT_ROTATION_ATOMIC_ROWS: atomicRows,
  };
  const config = readCliConfig(settings);
  const database = new InterruptedDatabase(config.database);
  const warnings: Record<string, unknown>[] = [];
  const logger = pino({ level: 'warn' }, { write: (line) => warnings.push(JSON.parse(line)) });
  const services = buildServices(config, logger, { database });
  // Before the start, which may take a rotation up again.
  database.interruptions = interruptions;
  await services.prepare();
  const running = await startOnceFree(services.rotator, request);
  const record = await running.done;
  expect(database.interruptions).toHaveLength(0);
  const survey = await services.verify();
  await services.close();
  return { record, survey, rows: await gateway.rows(), warnings };
}

describe.each([
  ['in one commit', '10000'],
  ['in chunks', '0'],
])('a rotation %s', (_mode, atomicRows) => {
  async function table() {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b', 'c']) await gateway.insert(keyA, { id });
    return { url, gateway };
  }

  it('keeps an edit that the gateway makes meanwhile, and rotates it too', async () => {
    const { url, gateway } = await table();
    const { record, survey } = await interruptedRotation(url, gateway, atomicRows, [
      () => gateway.update(keyA, 'b', 'sample-edited'),
    ]);
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 3 });
    expect(await gateway.open(keyB, 'b')).toBe('sample-edited');
    expect(survey.rowsByKeyId).toEqual(new Map([[keyIdB, 3]]));
  });

  it('rotates a row that is inserted meanwhile', async () => {
    const { url, gateway } = await table();
    const { record, survey } = await interruptedRotation(url, gateway, atomicRows, [
      () => gateway.insert(keyA, { id: 'd', value: 'sample-new' }),
    ]);
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 4 });
    expect(await gateway.open(keyB, 'd')).toBe('sample-new');
    expect(survey.rowsByKeyId).toEqual(new Map([[keyIdB, 4]]));
  });

  it('binds a row to the provider that somebody gives it meanwhile', async () => {
    const { url, gateway } = await table();
    const rename = () => gateway.run("UPDATE api_keys SET provider = 'xai' WHERE id = 'b'");
    const { record, survey, rows } = await interruptedRotation(url, gateway, atomicRows, [rename], { upgradeFormat: true });
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 3 });
    expect(rows.map(({ provider, iv }) => [provider, String(iv).length])).toEqual([
      ['openai', 24],
      ['xai', 24],
      ['openai', 24],
    ]);
    expect(survey.rowsFailed).toBe(0);
  });

  it('does not bring back a row that is deleted meanwhile', async () => {
    const { url, gateway } = await table();
    const { record, rows } = await interruptedRotation(url, gateway, atomicRows, [
      () => gateway.run("DELETE FROM api_keys WHERE id = 'b'"),
    ]);
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 2 });
    expect(rows.map(({ id }) => id)).toEqual(['a', 'c']);
  });

  it('goes on where another program makes the table anew meanwhile, without the columns of the vault', async () => {
    const { url, gateway } = await table();
    const makeAnew = () =>
      gateway.client
        .batch(
          [
            gatewayTableSql.replace('api_keys', 'remade'),
            `INSERT INTO remade SELECT ${gatewayColumns} FROM api_keys ORDER BY id DESC`,
            'DROP TABLE api_keys',
            'ALTER TABLE remade RENAME TO api_keys',
          ],
          'write',
        )
        .then(() => undefined);
    const { record, survey, rows } = await interruptedRotation(url, gateway, atomicRows, [makeAnew]);
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 3 });
    expect(survey.rowsByKeyId).toEqual(new Map([[keyIdB, 3]]));
    expect(rows.map(({ key_id }) => key_id)).toEqual([keyIdB, keyIdB, keyIdB]);
  });

  it('completes though somebody writes before every one of its commits', async () => {
    const { url, gateway } = await table();
    const last = atomicRows === '0' ? 1 : 5;
    const edits = Array.from({ length: last + 1 }, (_, index) => () => gateway.update(keyA, 'a', `sample-${index}`));
    const { record, survey } = await interruptedRotation(url, gateway, atomicRows, edits);
    expect(record.state).toBe('completed');
    expect(survey.rowsByKeyId).toEqual(new Map([[keyIdB, 3]]));
    expect(await gateway.open(keyB, 'a')).toBe(`sample-${last}`);
  });

  it('names a row that is written meanwhile under a key which nobody has, and finishes once it is gone', async () => {
    const { url, gateway } = await table();
    const first = interruptedRotation(url, gateway, atomicRows, [() => gateway.insert(keyC, { id: 'foreign' })]);
    if (atomicRows === '0')
      expect((await first).record).toMatchObject({
        state: 'verify_failed',
        error: expect.stringContaining('api_keys.id=foreign'),
      });
    else await expect(first).rejects.toThrow('api_keys.id=foreign');
    await gateway.run("DELETE FROM api_keys WHERE id = 'foreign'");
    const { record, survey } = await interruptedRotation(url, gateway, atomicRows, []);
    expect(record.state).toBe('completed');
    expect(survey.rowsByKeyId).toEqual(new Map([[keyIdB, 3]]));
  });
});

/** Edits under the old key the row that is not being written: whoever reads both finds one of them under it, always. */
function editing(gateway: GatewayDatabase): { edit: () => Promise<void>; edits: () => number } {
  let edits = 0;
  const edit = async (): Promise<void> => {
    edits += 1;
    const isOld = await Promise.all(['a', 'b'].map((id) => gateway.open(keyA, id).catch(() => null)));
    await gateway.update(keyA, isOld[0] === null ? 'a' : 'b', `sample-${edits}`);
  };
  return { edit, edits: () => edits };
}

describe('a verification', () => {
  it.each([
    ['interrupted', 3],
    ['verify_failed', 1],
  ])('counts what it finds under the old key, and of a rotation that was %s counts %d in all', async (state, found) => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    const { edit } = editing(gateway);
    const stop = (): Promise<void> => Promise.reject(new StorageUnavailableError('The database is gone on purpose.'));
    await expect(interruptedRotation(url, gateway, '0', [edit, edit, edit, stop])).rejects.toThrow('gone on purpose');
    const rotations = () => gateway.rows('vault_rotations');
    expect((await rotations())[0]).toMatchObject({ state: 'interrupted', rows_found_late: 2 });
    await gateway.run('UPDATE vault_rotations SET state = ?', [state]);
    await interruptedRotation(url, gateway, '0', [edit]);
    expect((await rotations())[0]).toMatchObject({ state: 'completed', rows_found_late: found });
  });

  it('names a row that has come under an older key of the keyring, and the same rotation, run again, rotates it', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    const store = () => gateway.insert(keyC, { id: 'late', value: 'sample-late' });
    const older = { PROVARA_MASTER_KEY_OLD: keyC };
    const { record } = await interruptedRotation(url, gateway, '0', [store], {}, older);
    expect(record).toMatchObject({ state: 'verify_failed', error: expect.stringContaining('api_keys.id=late (other_key)') });
    const again = await interruptedRotation(url, gateway, '0', [], {}, older);
    // Who takes it up, this call or the start before it, is left open: the other finds it finished.
    expect((await gateway.rows('vault_rotations'))[0]).toMatchObject({ id: record.id, state: 'completed' });
    expect(again.warnings).toContainEqual(expect.objectContaining({ rows_other: 1 }));
    expect(again.survey.rowsByKeyId).toEqual(new Map([[keyIdB, 3]]));
    expect(await gateway.open(keyB, 'late')).toBe('sample-late');
  });

  it('says of no more rows that they were rotated than are under the new key, also where it fails', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    const { edit } = editing(gateway);
    const { record } = await interruptedRotation(url, gateway, '0', [edit, edit, () => gateway.insert(keyC, { id: 'foreign' })]);
    expect(record).toMatchObject({ state: 'verify_failed', rowsScanned: 3, rowsVerified: 2, rowsRotated: 2 });
  });

  it('names the rows that stay in the old format whatever it does', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyB, { id });
    await gateway.run("CREATE TRIGGER kept BEFORE UPDATE ON api_keys WHEN old.id = 'b' BEGIN SELECT RAISE(IGNORE); END");
    const { record } = await interruptedRotation(url, gateway, '0', [async () => undefined], {
      oldKeyId: keyIdA,
      newKeyId: keyIdB,
      upgradeFormat: true,
    });
    expect(record).toMatchObject({ state: 'verify_failed', error: '1 row(s) are in format 1 again: api_keys.id=b.' });
  });

  it('names the rows that stay under the old key whatever it does', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    await gateway.run("CREATE TRIGGER kept BEFORE UPDATE ON api_keys WHEN old.id = 'b' BEGIN SELECT RAISE(IGNORE); END");
    const { record } = await interruptedRotation(url, gateway, '0', [async () => undefined]);
    expect(record).toMatchObject({ state: 'verify_failed', error: '1 row(s) are under the old key again: api_keys.id=b.' });
  });

  it('blames no program under the old key for rows that come under the new one in the old format', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    const store = () => gateway.insert(keyB, { id: 'late' });
    const request = { upgradeFormat: true };
    const { record, warnings } = await interruptedRotation(url, gateway, '0', [store], request);
    expect(record).toMatchObject({ state: 'completed', rowsVerified: 3, rowsFoundLate: 0 });
    expect(warnings).toEqual([expect.objectContaining({ rows_left: 1, msg: expect.stringContaining('old format') })]);
    expect((await gateway.rows()).map(({ iv }) => String(iv).length)).toEqual([24, 24, 24]);
  });

  it('ends beside a program that goes on writing under the old key, once everything else has been read thrice', async () => {
    const { url, gateway } = await temporaryDatabase();
    for (const id of ['a', 'b']) await gateway.insert(keyA, { id });
    const { edit, edits } = editing(gateway);
    const endless = Object.assign<(() => Promise<void>)[], object>([], { shift: () => edit });
    const { record, warnings } = await interruptedRotation(url, gateway, '0', endless);
    // Some were rotated more than once: that makes no more rows of them.
    expect(record).toMatchObject({ state: 'completed', rowsScanned: 2, rowsVerified: 2, rowsRotated: 2 });
    // Two while both were written for the first time, which was in vain for one of them, and one after each of three passes.
    expect(edits()).toBe(5);
    const warning = { rotation_id: record.id, rows_left: 1, msg: expect.stringContaining('needs the new one') };
    expect(warnings).toMatchObject([warning, warning, warning]);
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    const { body } = await admin('GET', `/admin/rotate/${record.id}`);
    expect(body.rotation.warnings).toContainEqual(expect.stringMatching(/^3 time\(s\) a row was written under the old key/));
  });
});

describe('the lease', () => {
  const settings = { PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB };

  it('keeps a second call from taking up a rotation whose owner lives', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const { record } = await interruptedRotation(url, gateway, '10000', [
      async () => {
        const other = buildServices(readCliConfig({ DATABASE_URL: url, ...settings }), createSilentLogger());
        await expect(other.rotator.start({})).rejects.toMatchObject({ code: 'rotation_in_progress' });
        await other.close();
      },
    ]);
    expect(record).toMatchObject({ state: 'completed', rowsRotated: 1 });
  });

  it.each(['10000', '0'])(
    'once lost lets its former owner write nothing more (up to %s rows in one commit)',
    async (atomicRows) => {
      const { url, gateway } = await temporaryDatabase();
      await gateway.insert(keyA, { id: 'a' });
      let rows: unknown;
      const woken = interruptedRotation(url, gateway, atomicRows, [
        async () => {
          await gateway.run('UPDATE vault_rotation_lease SET expires_at = 0');
          const other = buildServices(readCliConfig({ DATABASE_URL: url, ...settings }), createSilentLogger());
          const taken = await other.rotator.start({});
          expect((await taken.done).state).toBe('completed');
          await other.close();
          rows = await gateway.rows();
        },
      ]);
      await expect(woken).rejects.toMatchObject({ code: 'rotation_in_progress' });
      expect(await gateway.rows()).toEqual(rows);
      expect((await gateway.rows('vault_rotations')).map(({ state }) => state)).toEqual(['completed']);
      expect(await gateway.open(keyB, 'a')).toBe('sample-value-of-a');
    },
  );
});

describe('a rotation that is cancelled while it runs', () => {
  it('stops at its next step, and says so to whoever waits for it', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const { record } = await interruptedRotation(url, gateway, '10000', [
      async () => {
        const other = buildServices(readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA }), createSilentLogger());
        const id = (await other.rotations.findUnfinished())?.id ?? '';
        expect((await cancelRotation(other, tester, id)).state).toBe('cancelled');
        await other.close();
      },
    ]);
    expect(record.state).toBe('cancelled');
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
    expect((await gateway.rows('vault_active_key')).map(({ key_id }) => key_id)).toEqual([keyIdA]);
  });
});

describe('one commit', () => {
  it('whose rotation was interrupted by another write leaves nothing of the attempt behind', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    let seen: unknown;
    await interruptedRotation(url, gateway, '10000', [
      () => gateway.insert(keyA, { id: 'b' }),
      async () => {
        seen = [await gateway.open(keyA, 'a'), (await gateway.rows('vault_active_key')).map(({ key_id }) => key_id)];
      },
    ]);
    expect(seen).toEqual(['sample-value-of-a', [keyIdA]]);
  });
});

describe('the switch', () => {
  it.each([
    [
      'a replica without the new key has started',
      [`INSERT INTO vault_replicas (id, host, key_ids, seen_at) VALUES ('behind', 'sample', '["${keyIdA}"]', unixepoch())`],
      'replica_missing_key',
    ],
    [
      'another key has become active',
      [
        `INSERT INTO vault_master_keys (key_id, is_passphrase, first_seen_at) VALUES ('${keyIdC}', 0, unixepoch())`,
        `UPDATE vault_active_key SET key_id = '${keyIdC}'`,
      ],
      'rotation_in_progress',
    ],
  ])('is refused where %s since the plan, and the rotation has failed with nothing written', async (_what, changes, code) => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    let active: unknown;
    const refused = interruptedRotation(url, gateway, '10000', [
      async () => {
        for (const change of changes) await gateway.run(change);
        active = await gateway.rows('vault_active_key');
      },
    ]);
    await expect(refused).rejects.toMatchObject({ code });
    expect(await gateway.open(keyA, 'a')).toBe('sample-value-of-a');
    expect(await gateway.rows('vault_active_key')).toEqual(active);
    expect(await gateway.rows('vault_rotations')).toMatchObject([{ state: 'failed', switched: 0 }]);
  });
});

describe('a rotation that is refused something behind its switch', () => {
  it('is interrupted, and the same call finishes it', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const refuse = (): Promise<void> => Promise.reject(new ConfigurationError('A setting is wrong on purpose.'));
    await expect(interruptedRotation(url, gateway, '0', [refuse])).rejects.toThrow('wrong on purpose');
    const [rotation] = await gateway.rows('vault_rotations');
    expect(rotation).toMatchObject({ state: 'interrupted', switched: 1 });
    await interruptedRotation(url, gateway, '0', []);
    expect((await gateway.rows('vault_rotations'))[0]).toMatchObject({ id: rotation?.id, state: 'completed' });
    expect(await gateway.open(keyB, 'a')).toBe('sample-value-of-a');
  });
});

async function firstPage(database: Database) {
  for await (const page of new EncryptedTables(database).pages('api_keys')) return decodePage(page);
  return [];
}

async function replace(database: Database, replacement: Replacement) {
  const writer = new ReplacementWriter();
  writer.add(replacement);
  const statements = writer.finish().map((json) => replaceStatement('api_keys', keyIdB, json));
  return (await database.write(statements))[0];
}

describe('a replacement', () => {
  it('changes a row only while its ciphertext and what that is bound to are what was read', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const database = new Database({ url });
    await migrate(database);
    const [row] = await firstPage(database);
    const { rowId = '', ciphertext: read = null, binding = null } = row ?? {};
    if (read === null || binding === null) throw new Error('The row is whole.');
    const { encrypted_value, iv, auth_tag } = gatewaySeal(keyB, 'sample');
    const sealed = { encryptedValue: encrypted_value, iv, authTag: auth_tag };
    for (const column of ['encryptedValue', 'iv', 'authTag']) {
      expect(await replace(database, { rowId, read: { ...read, [column]: '00' }, binding, sealed })).toBe(0);
    }
    for (const column of ['tenantId', 'name', 'provider']) {
      expect(await replace(database, { rowId, read, binding: { ...binding, [column]: '00' }, sealed })).toBe(0);
    }
    expect(await replace(database, { rowId, read, binding, sealed })).toBe(1);
    await database.close();
  });
});

/** A row to a page. */
function inPages(rows: readonly (readonly [string, string | null])[]) {
  return rows.map((row) => ({ rows: 1, tags: Buffer.from(JSON.stringify([row])) }));
}

describe('the assertion of a table’s state', () => {
  it('rolls the whole batch back where a row is another, missing or more than expected', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'a' });
    const database = new Database({ url });
    await migrate(database);
    const [row] = await firstPage(database);
    const authTag = row?.ciphertext?.authTag ?? '';
    const rename = { sql: "UPDATE api_keys SET name = 'renamed'" };
    const bad = [
      [],
      [['1', '00']],
      [['2', authTag]],
      [
        ['1', authTag],
        ['2', null],
      ],
    ] as const;
    for (const expected of bad) {
      await expect(database.write([rename, ...tableStateStatements('api_keys', inPages(expected))])).rejects.toThrow(
        GuardFailedError,
      );
      expect((await gateway.rows())[0]?.name).toBe('a');
    }
    for (const expected of [[['1', authTag]], [['1', null]]] as const) {
      await database.write([rename, ...tableStateStatements('api_keys', inPages(expected))]);
    }
    expect((await gateway.rows())[0]?.name).toBe('renamed');
    await database.close();
  });
});
