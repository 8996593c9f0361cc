/** What an operator may rely on when rotating over HTTP: the gate, one commit, reruns, skips, coverage, half-done tables. */

import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { buildServices } from '../../src/services.ts';
import { connectorTableSql, type GatewayDatabase } from '../support/gateway.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, temporaryDatabase } from '../support/vault.ts';

const staged = { PROVARA_MASTER_KEY_NEW: keyB };

async function tableOf(rows: number, masterKey = keyA): Promise<{ url: string; gateway: GatewayDatabase }> {
  const database = await temporaryDatabase();
  await database.gateway.fill(masterKey, rows);
  return database;
}

/** All of it but the vault's own columns, which a gateway does not see. */
async function gatewayView(database: GatewayDatabase, table = 'api_keys'): Promise<unknown[]> {
  return (await database.rows(table)).map(({ key_id, key_id_tag, last_used_at, ...row }) => row);
}

describe('a dry run', () => {
  it('opens every row, counts them by table, and changes nothing', async () => {
    const { url, gateway: database } = await tableOf(3);
    const { admin } = await startVault(url, staged);
    const before = await database.rows();
    const { status, body } = await admin('POST', '/admin/rotate/dry-run');
    expect(status).toBe(200);
    expect(body).toMatchObject({
      dry_run: true,
      rows_scanned: 3,
      rows_old: 3,
      rows_new: 0,
      rows_failed: 0,
      rows_skipped: 0,
      from_key_id: keyIdA,
      to_key_id: keyIdB,
      tables: [{ table: 'api_keys', rows: 3 }],
      message: 'DRY RUN — scanned 3 row(s). Every row decrypts cleanly with the old key.',
    });
    expect(await database.rows()).toEqual(before);
    expect((await admin('GET', '/admin/rotate')).body).toEqual({ running: null, last: null });
    expect((await admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
  });

  it('names every failing row with its reason, as execute would, and nothing is written', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.insert(keyB, { id: 'under-new' });
    await database.insert(keyC, { id: 'under-other' });
    await database.insert('f'.repeat(64), { id: 'under-unknown' });
    await database.run("UPDATE api_keys SET iv = 'not hex' WHERE id = 'row-1'");
    const { admin } = await startVault(url, { ...staged, PROVARA_MASTER_KEY_OLD: keyC });
    const before = await gatewayView(database);
    for (const path of ['/admin/rotate/dry-run', '/admin/rotate/execute']) {
      const { status, body } = await admin('POST', path);
      expect([status, body.error.type]).toEqual([422, 'decrypt_gate_failed']);
      expect(body.error.message).toBe(
        'Decrypt failed for api_keys.id=row-1 — the old key does not match. 3 of 5 row(s) failed; nothing was written.',
      );
      expect(body.error.details).toEqual({
        rows_scanned: 5,
        rows_failed: 3,
        failures: [
          { table: 'api_keys', id: 'row-1', reason: 'malformed' },
          { table: 'api_keys', id: 'under-other', reason: 'other_key', key_id: keyIdC },
          { table: 'api_keys', id: 'under-unknown', reason: 'unknown_key_or_corrupt' },
        ],
      });
    }
    expect(await gatewayView(database)).toEqual(before);
    expect((await admin('GET', '/admin/rotate')).body).toMatchObject({ running: null, last: { state: 'failed' } });
    expect((await admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
  });
});

describe('a rotation', () => {
  it('puts every row under the new key and changes nothing else of it', async () => {
    const { url, gateway: database } = await tableOf(3);
    const { admin, gateway } = await startVault(url, staged);
    const before = await gatewayView(database);
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect(status).toBe(200);
    expect(body.rotation).toMatchObject({
      state: 'completed',
      rows_scanned: 3,
      rows_rotated: 3,
      rows_already_rotated: 0,
      rows_skipped: 0,
      rows_verified: 3,
      from_key_id: keyIdA,
      to_key_id: keyIdB,
      message: 'rotated 3 of 3 row(s).',
    });
    const after = await gatewayView(database);
    const withoutCiphertext = (rows: unknown[]) =>
      (rows as Record<string, unknown>[]).map(({ encrypted_value, iv, auth_tag, ...row }) => row);
    expect(withoutCiphertext(after)).toEqual(withoutCiphertext(before));
    for (let index = 0; index < 3; index += 1) {
      expect(await database.open(keyB, `row-${index}`)).toBe(`sample-value-of-row-${index}`);
      await expect(database.open(keyA, `row-${index}`)).rejects.toThrow();
      const decrypted = await gateway('POST', '/v1/api-keys/decrypt', { name: `row-${index}` });
      expect(decrypted.body.key.value).toBe(`sample-value-of-row-${index}`);
    }
  });

  it('rotates rows whose row ids are beyond what a JavaScript number counts, each once', async () => {
    const { url, gateway: database } = await tableOf(0);
    const rowIds = [-(2n ** 63n), -(2n ** 53n) - 1n, 0n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 62n, 2n ** 62n + 1n, 2n ** 63n - 1n];
    for (const [index, rowId] of rowIds.entries()) {
      await database.insert(keyA, { id: `row-${index}` });
      await database.client.execute({ sql: 'UPDATE api_keys SET rowid = ? WHERE id = ?', args: [rowId, `row-${index}`] });
    }
    for (const settings of [staged, { ...staged, VAULT_ROTATION_ATOMIC_ROWS: '1' }]) {
      const { admin, close } = await startVault(url, settings);
      const [from, to] = settings === staged ? [keyIdA, keyIdB] : [keyIdB, keyIdA];
      const { body } = await admin('POST', '/admin/rotate/execute', { old_key_id: from, new_key_id: to });
      expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: rowIds.length, rows_verified: rowIds.length });
      await close();
    }
    for (const index of rowIds.keys()) expect(await database.open(keyA, `row-${index}`)).toBe(`sample-value-of-row-${index}`);
  });

  it('is finished by the same command also where a row that it skips has been deleted since', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.insert('f'.repeat(64), { id: 'bad' });
    const { admin } = await startVault(url, staged);
    const command = () => admin('POST', '/admin/rotate/execute', { skip_ids: ['bad'] });
    expect((await command()).body.rotation).toMatchObject({ state: 'completed', rows_skipped: 1 });
    await database.run("DELETE FROM api_keys WHERE id = 'bad'");
    const again = await command();
    expect([again.status, again.body.rotation?.rows_already_rotated]).toEqual([200, 2]);
  });

  it('refuses to leave behind a table whose columns are spelt in another case', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run('CREATE TABLE others (id text, Encrypted_Value text, IV text, AUTH_TAG text)');
    await database.run('INSERT INTO others SELECT id, encrypted_value, iv, auth_tag FROM api_keys');
    const { admin, close } = await startVault(url, staged);
    expect((await admin('POST', '/admin/rotate/execute')).body.error.type).toBe('uncovered_table');
    await close();
    const covering = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,others' });
    expect((await covering.admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ rows_rotated: 2 });
    expect((await covering.admin('GET', '/admin/snapshot')).status).toBe(200);
  });

  it('keeps a row in its format, and with upgrade_format binds every row of api_keys to its tenant and name', async () => {
    const { url, gateway: database } = await tableOf(2);
    const { admin, gateway } = await startVault(url, staged);
    await gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample-value-new' });
    const ivLengths = async (): Promise<number[]> => (await database.rows()).map(({ iv }) => String(iv).length);
    await admin('POST', '/admin/rotate/execute');
    expect(await ivLengths()).toEqual([32, 32, 24]);
    const upgraded = await admin('POST', '/admin/rotate/execute', { upgrade_format: true });
    expect(upgraded.body.rotation).toMatchObject({
      state: 'completed',
      rows_rotated: 2,
      rows_already_rotated: 1,
      rows_verified: 3,
    });
    expect(await ivLengths()).toEqual([24, 24, 24]);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'row-0' })).body.key.value).toBe('sample-value-of-row-0');
  });

  it('makes the new key the one that seals, while both go on opening', async () => {
    const { url, gateway: database } = await tableOf(1);
    const { admin, gateway } = await startVault(url, staged);
    const under = await gateway('POST', '/v1/encrypt', { plaintext: 'sample' });
    await admin('POST', '/admin/rotate/execute');
    const stored = await gateway('POST', '/v1/api-keys', { name: 'NEW', provider: 'openai', value: 'sample' });
    expect(stored.body.key.key_id).toBe(keyIdB);
    expect((await gateway('POST', '/v1/encrypt', { plaintext: 'sample' })).body.key_id).toBe(keyIdB);
    expect((await gateway('POST', '/v1/decrypt', { ciphertext: under.body.ciphertext })).body).toEqual({
      plaintext: 'sample',
      key_id: keyIdA,
    });
    await database.insert(keyA, { id: 'late', value: 'sample-late' });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'late' })).body.key.value).toBe('sample-late');
  });

  it('run again answers 200 with everything already rotated', async () => {
    const { url } = await tableOf(3);
    const { admin } = await startVault(url, staged);
    await admin('POST', '/admin/rotate/execute');
    const again = await admin('POST', '/admin/rotate/execute');
    expect(again.status).toBe(200);
    expect(again.body.rotation).toMatchObject({
      state: 'completed',
      rows_scanned: 3,
      rows_rotated: 0,
      rows_already_rotated: 3,
      rows_verified: 3,
      from_key_id: keyIdA,
      to_key_id: keyIdB,
    });
    expect((await admin('POST', '/admin/rotate/dry-run')).body).toMatchObject({ rows_old: 0, rows_new: 3 });
  });

  it('is known for a rerun where an older tool has rotated the table and the vault has no record of it', async () => {
    const { url } = await tableOf(2, keyB);
    const { admin } = await startVault(url, staged);
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect(status).toBe(200);
    expect(body.rotation).toMatchObject({ rows_rotated: 0, rows_already_rotated: 2, from_key_id: keyIdA, to_key_id: keyIdB });
  });

  it('goes back to the old key like any other', async () => {
    const { url, gateway: database } = await tableOf(2);
    const { admin } = await startVault(url, staged);
    await admin('POST', '/admin/rotate/execute');
    const back = await admin('POST', '/admin/rotate/execute', { old_key_id: keyIdB, new_key_id: keyIdA });
    expect(back.body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
    expect((await admin('GET', '/admin/master-keys')).body.active_key_id).toBe(keyIdA);
  });

  it('is told as the last one, where an earlier one seems later because the clock was set back since', async () => {
    const { url, gateway: database } = await tableOf(2);
    const { admin } = await startVault(url, staged);
    await admin('POST', '/admin/rotate/execute');
    await database.run('UPDATE vault_rotations SET started_at = started_at + 86400, finished_at = finished_at + 86400');
    const back = await admin('POST', '/admin/rotate/execute', { old_key_id: keyIdB, new_key_id: keyIdA });
    expect((await admin('GET', '/admin/rotate')).body.last).toMatchObject({ id: back.body.rotation.id, to_key_id: keyIdA });
  });

  it('goes back to a passphrase too, where rows were under it before', async () => {
    const passphrase = 'correct horse battery staple sample';
    const { url, gateway: database } = await tableOf(1, passphrase);
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY: passphrase, ...staged });
    const first = await admin('POST', '/admin/rotate/execute');
    const { from_key_id, to_key_id } = first.body.rotation;
    const back = await admin('POST', '/admin/rotate/execute', { old_key_id: to_key_id, new_key_id: from_key_id });
    expect(back.body.rotation.state).toBe('completed');
    expect(await database.open(passphrase, 'row-0')).toBe('sample-value-of-row-0');
  });

  it('calls a passphrase a passphrase in its log, also once that is retired', async () => {
    const passphrase = 'correct horse battery staple sample';
    const { url } = await tableOf(1, passphrase);
    const vault = await startVault(url, { PROVARA_MASTER_KEY: passphrase, ...staged });
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
    await vault.close();
    const lines: string[] = [];
    const logger = pino({ level: 'trace' }, { write: (line) => lines.push(line) });
    const services = buildServices(readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY_NEW: keyB }), logger);
    await services.prepare();
    expect(await (await services.rotator.start({})).done).toMatchObject({ state: 'completed' });
    await services.close();
    expect(lines.join('')).toContain('"from_key_id":"passphrase"');
    expect(lines.join('')).not.toContain(parseMasterKey(passphrase).id);
  });

  it('puts no old key on record that opens nothing, as a mistyped one', async () => {
    const { url, gateway: database } = await tableOf(1);
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY_OLD: keyC });
    await database.run('DELETE FROM vault_master_keys WHERE key_id = ?', [keyIdC]);
    const { body } = await admin('POST', '/admin/rotate/execute', { old_key_id: keyIdC, new_key_id: keyIdA });
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 0 });
    expect((await database.rows('vault_master_keys')).map(({ key_id }) => key_id)).toEqual([keyIdA]);
  });

  it('does not call a mistyped old key the active one of a table that was never served either', async () => {
    const { url, gateway: database } = await tableOf(2, keyB);
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyC, PROVARA_MASTER_KEY_NEW: keyB };
    const services = buildServices(readCliConfig(environment), createSilentLogger());
    await services.migrate();
    const { done } = await services.rotator.start({ oldKeyId: keyIdC, newKeyId: keyIdB });
    expect(await done).toMatchObject({ state: 'completed', rowsRotated: 0 });
    await services.close();
    expect((await database.rows('vault_master_keys')).map(({ key_id }) => key_id)).toEqual([keyIdB]);
    expect(await database.rows('vault_active_key')).toMatchObject([{ key_id: keyIdB }]);
  });

  it('finishes a table that an older tool left half-done', async () => {
    const { url, gateway: database } = await tableOf(3);
    await database.insert(keyB, { id: 'done-already' });
    const { admin } = await startVault(url, staged);
    const { body } = await admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 3, rows_already_rotated: 1, rows_verified: 4 });
    expect(await database.open(keyB, 'done-already')).toBe('sample-value-of-done-already');
  });

  it('uses the key that was swapped in before the rotation, where no next one is set', async () => {
    const { url } = await tableOf(1);
    const first = await startVault(url);
    await first.close();
    const { admin, gateway } = await startVault(url, { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_OLD: keyA });
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'row-0' })).status).toBe(200);
    const { body } = await admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ state: 'completed', from_key_id: keyIdA, to_key_id: keyIdB, rows_rotated: 1 });
  });

  it('is repeated in chunks for a table above the limit of one commit, with the same outcome', async () => {
    const { url, gateway: database } = await tableOf(30);
    const { admin } = await startVault(url, { ...staged, VAULT_ROTATION_ATOMIC_ROWS: '10' });
    const { body } = await admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ state: 'completed', rows_scanned: 30, rows_rotated: 30, rows_verified: 30 });
    for (let index = 0; index < 30; index += 1)
      expect(await database.open(keyB, `row-${index}`)).toBe(`sample-value-of-row-${index}`);
  });

  it('answers 202 with where to look once the wait is over, and is found there', async () => {
    const { url } = await tableOf(500);
    const { admin } = await startVault(url, staged);
    const { status, headers, body } = await admin('POST', '/admin/rotate/execute?wait=0');
    expect(status).toBe(202);
    expect(headers.get('location')).toBe(`/admin/rotate/${body.rotation.id}`);
    const deadline = Date.now() + 30_000;
    for (;;) {
      const { rotation } = (await admin('GET', `/admin/rotate/${body.rotation.id}`)).body;
      if (rotation.state === 'completed') break;
      expect(Date.now(), `still ${rotation.state}`).toBeLessThan(deadline);
    }
    expect((await admin('GET', '/admin/rotate/no-such-rotation')).status).toBe(404);
  });

  it('runs one at a time: of two at once one runs and the other gets 409 with its id', async () => {
    const { url, gateway: database } = await tableOf(300);
    const { admin } = await startVault(url, staged);
    const answers = await Promise.all([admin('POST', '/admin/rotate/execute'), admin('POST', '/admin/rotate/execute')]);
    const ran = answers.find(({ status }) => status === 200);
    const refused = answers.find(({ status }) => status === 409);
    expect(refused?.body.error.type).toBe('rotation_in_progress');
    expect(refused?.body.error.details.rotation_id).toBe(ran?.body.rotation.id);
    expect(await database.open(keyB, 'row-299')).toBe('sample-value-of-row-299');
  });

  it('loses no store and fails no call that comes while it runs', async () => {
    const { url } = await tableOf(400);
    const { admin, gateway } = await startVault(url, staged);
    const expected = new Map<string, string>();
    let isRunning = true;
    const storing = (async () => {
      for (let index = 0; isRunning; index += 1) {
        const name = `row-${index % 400}`;
        const stored = await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: `edited-${index}` });
        expect(stored.status).toBe(200);
        expected.set(name, `edited-${index}`);
        const read = await gateway('POST', '/v1/api-keys/decrypt', { name: `row-${(index * 7) % 400}` });
        expect(read.status).toBe(200);
      }
    })();
    const { body } = await admin('POST', '/admin/rotate/execute');
    isRunning = false;
    await storing;
    expect(body.rotation.state).toBe('completed');
    for (const [name, value] of expected) {
      expect((await gateway('POST', '/v1/api-keys/decrypt', { name })).body.key.value).toBe(value);
    }
    expect((await admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdB]: 400 });
  });
});

describe('the keys of a rotation', () => {
  it.each([
    ['two equal keys', { old_key_id: keyIdA, new_key_id: keyIdA }, 'The old and new keys are identical: nothing to rotate.'],
    ['the active key as the new one', { new_key_id: keyIdA }, 'The old and new keys are identical: nothing to rotate.'],
    ['the staged key as the old one', { old_key_id: keyIdB }, 'The old and new keys are identical: nothing to rotate.'],
    ['a key that is not in the keyring', { new_key_id: keyIdC }, `new_key_id ${keyIdC} is not in the keyring`],
    ['an old key that is not in the keyring', { old_key_id: keyIdC }, `old_key_id ${keyIdC} is not in the keyring`],
    ['a malformed key id', { new_key_id: 'XYZ' }, 'body.new_key_id'],
    ['an unknown field', { newkey: keyIdB }, '"newkey"'],
    ['an unknown row to skip', { skip_ids: ['no-such-row'] }, '"no-such-row"'],
  ])('are refused with 400 for %s, and nothing changes', async (_case, body, message) => {
    const { url, gateway: database } = await tableOf(1);
    const { admin } = await startVault(url, staged);
    const before = await database.rows();
    for (const path of ['/admin/rotate/dry-run', '/admin/rotate/execute']) {
      const answer = await admin('POST', path, body);
      expect([answer.status, answer.body.error.type]).toEqual([400, 'validation_error']);
      expect(answer.body.error.message).toContain(message);
    }
    expect(await database.rows()).toEqual(before);
    expect((await admin('GET', '/admin/rotate')).body).toEqual({ running: null, last: null });
  });

  it('are refused where the new one is a passphrase', async () => {
    const { url } = await tableOf(1);
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: 'a sample passphrase' });
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect(status).toBe(400);
    expect(body.error.message).toContain('64 hexadecimal characters');
  });

  it('are missing where nothing is staged: 400 names PROVARA_MASTER_KEY_NEW', async () => {
    const { url } = await tableOf(1);
    const { admin } = await startVault(url);
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect(status).toBe(400);
    expect(body.error.message).toContain('PROVARA_MASTER_KEY_NEW');
  });
});

describe('skipped rows', () => {
  it('are left out, alone, and keep their key from being safe to retire', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.insert(keyC, { id: 'foreign' });
    const { admin, gateway } = await startVault(url, { ...staged, PROVARA_MASTER_KEY_OLD: keyC });
    const dryRun = await admin('POST', '/admin/rotate/dry-run', { skip_ids: ['foreign'] });
    expect(dryRun.body).toMatchObject({ rows_scanned: 3, rows_old: 2, rows_skipped: 1 });
    const { body } = await admin('POST', '/admin/rotate/execute', { skip_ids: ['api_keys:foreign', 'row-1'] });
    expect(body.rotation).toMatchObject({
      state: 'completed',
      rows_scanned: 3,
      rows_rotated: 1,
      rows_skipped: 2,
      rows_verified: 1,
    });
    expect(await database.open(keyC, 'foreign')).toBe('sample-value-of-foreign');
    expect(await database.open(keyA, 'row-1')).toBe('sample-value-of-row-1');
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'row-1' })).status).toBe(200);
    const { keys } = (await admin('GET', '/admin/master-keys')).body;
    const safe = Object.fromEntries(
      keys.map((key: { key_id: string; safe_to_retire: boolean }) => [key.key_id, key.safe_to_retire]),
    );
    expect(safe).toEqual({ [keyIdA]: false, [keyIdB]: false, [keyIdC]: false });
    const rest = await admin('POST', '/admin/rotate/execute', { skip_ids: ['foreign'] });
    expect(rest.body.rotation).toMatchObject({ rows_rotated: 1, rows_already_rotated: 1, rows_skipped: 1 });
    const after = (await admin('GET', '/admin/master-keys')).body.keys;
    expect(after.find((key: { key_id: string }) => key.key_id === keyIdA)).toMatchObject({
      state: 'retired',
      rows: 0,
      safe_to_retire: true,
    });
  });

  it('are named with their table where an id stands in several', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'row-0' }, 'context_connector_credentials');
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,context_connector_credentials' });
    expect((await admin('POST', '/admin/rotate/dry-run', { skip_ids: ['row-0'] })).status).toBe(400);
    const { body } = await admin('POST', '/admin/rotate/execute', { skip_ids: ['context_connector_credentials:row-0'] });
    expect(body.rotation).toMatchObject({ rows_rotated: 1, rows_skipped: 1 });
    expect(await database.open(keyA, 'row-0', 'context_connector_credentials')).toBe('sample-value-of-row-0');
    expect(await database.open(keyB, 'row-0')).toBe('sample-value-of-row-0');
  });
});

describe('a rotation that was refused', () => {
  it('binds nobody: without a covered table it has failed, and the vault is ready with the old key alone', async () => {
    const { url } = await tableOf(1);
    const first = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,no_such_table' });
    expect((await first.admin('POST', '/admin/rotate/execute')).status).toBe(503);
    expect((await first.admin('GET', '/admin/rotate')).body).toMatchObject({ running: null, last: { state: 'failed' } });
    await first.close();
    const { admin } = await startVault(url);
    expect((await admin('GET', '/ready')).status).toBe(200);
  });
});

describe('coverage', () => {
  it('takes a table whose rowid is its primary key', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run('CREATE TABLE others (rowid INTEGER PRIMARY KEY, encrypted_value text, iv text, auth_tag text)');
    await database.run('INSERT INTO others SELECT 7, encrypted_value, iv, auth_tag FROM api_keys');
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,others' });
    expect((await admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ rows_scanned: 2, rows_verified: 2 });
  });

  it.each([
    ['WITHOUT ROWID', 'id text PRIMARY KEY NOT NULL', ' WITHOUT ROWID'],
    ['a column rowid', 'id text PRIMARY KEY NOT NULL, RowId text', ''],
  ])('refuses a table that is or has %s, of which rows would be left out without a word', async (what, columns, options) => {
    const { url, gateway: database } = await tableOf(1);
    await database.run(
      `CREATE TABLE others (${columns}, encrypted_value text NOT NULL, iv text NOT NULL, auth_tag text NOT NULL)${options}`,
    );
    await database.run(
      `INSERT INTO others (id, encrypted_value, iv, auth_tag) SELECT id, encrypted_value, iv, auth_tag FROM api_keys`,
    );
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,others' });
    for (const call of [
      'POST /admin/rotate/dry-run',
      'POST /admin/rotate/execute',
      'POST /admin/verify',
      'GET /admin/snapshot',
    ]) {
      const [method = '', path = ''] = call.split(' ');
      const { status, body } = await admin(method, path);
      expect([status, body.error?.message], call).toEqual([503, expect.stringContaining(`The table others`)]);
      expect(body.error.message).toContain(what);
    }
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
  });

  it('refuses to leave a table of the encrypted shape behind, until it is covered or exempt', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'connector' }, 'context_connector_credentials');
    const uncovered = await startVault(url, staged);
    for (const path of ['/admin/rotate/dry-run', '/admin/rotate/execute']) {
      const { status, body } = await uncovered.admin('POST', path);
      expect([status, body.error.type]).toEqual([422, 'uncovered_table']);
      expect(body.error.details.tables).toEqual([{ table: 'context_connector_credentials', rows: 1 }]);
    }
    expect((await uncovered.admin('GET', '/ready')).body.warnings[0]).toContain('context_connector_credentials');
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
    await uncovered.close();
    const exempt = await startVault(url, { ...staged, VAULT_EXEMPT_TABLES: 'context_connector_credentials' });
    expect((await exempt.admin('POST', '/admin/rotate/dry-run')).status).toBe(200);
  });

  it('rotates every covered table at once, adding no column to another program’s', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.run(connectorTableSql);
    await database.insert(keyA, { id: 'connector' }, 'context_connector_credentials');
    const columns = Object.keys((await database.rows('context_connector_credentials'))[0] ?? {});
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,context_connector_credentials' });
    const dryRun = await admin('POST', '/admin/rotate/dry-run');
    expect(dryRun.body.tables).toEqual([
      { table: 'api_keys', rows: 2 },
      { table: 'context_connector_credentials', rows: 1 },
    ]);
    const { body } = await admin('POST', '/admin/rotate/execute', { upgrade_format: true });
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 3, rows_verified: 3 });
    expect(body.rotation.warnings[0]).toContain('context_connector_credentials');
    expect(await database.open(keyB, 'connector', 'context_connector_credentials')).toBe('sample-value-of-connector');
    expect(Object.keys((await database.rows('context_connector_credentials'))[0] ?? {})).toEqual(columns);
  });

  it.each(['10000', '1'])(
    'rotates tables with any names, also those that the statements use themselves, %s rows at once',
    async (rows) => {
      const { url, gateway: database } = await tableOf(2);
      const names = ['e', 'expected', 'k', 'key', 'm', 'main', 'n', 'r', 'sealed', 't', 'value', 'w', 'wanted'];
      for (const name of names) {
        await database.run(connectorTableSql.replace('context_connector_credentials', name));
        for (const column of ['key', 'value']) await database.run(`ALTER TABLE ${name} ADD COLUMN ${column} text`);
        await database.insert(keyA, { id: 'one' }, name);
      }
      await database.insert(keyA, { id: 'skipped' }, 'wanted');
      const settings = { VAULT_ENCRYPTED_TABLES: `api_keys,${names}`, VAULT_ROTATION_ATOMIC_ROWS: rows };
      const { admin } = await startVault(url, { ...staged, ...settings });
      const { body } = await admin('POST', '/admin/rotate/execute', { skip_ids: ['skipped'] });
      expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 + names.length, rows_skipped: 1 });
      for (const name of names) expect(await database.open(keyB, 'one', name)).toBe('sample-value-of-one');
    },
  );

  it('names a covered table that does not exist', async () => {
    const { url } = await tableOf(1);
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,no_such_table' });
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect([status, body.error.type]).toEqual([503, 'configuration_error']);
    expect(body.error.message).toContain('no_such_table');
  });

  it('puts the vault’s columns back where the gateway’s own migration has recreated the table', async () => {
    const { url, gateway: database } = await tableOf(2);
    const { admin, gateway } = await startVault(url, staged);
    await database.run('ALTER TABLE api_keys RENAME TO old_keys');
    await database.createTable();
    await database.run(
      `INSERT INTO api_keys SELECT id, name, provider, encrypted_value, iv, auth_tag, tenant_id, created_at, updated_at FROM old_keys`,
    );
    await database.run('DROP TABLE old_keys');
    const { body } = await admin('POST', '/admin/rotate/execute');
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
    expect((await gateway('GET', '/v1/api-keys')).body.keys).toHaveLength(2);
  });
});

describe('verify', () => {
  it('counts every row by the key that opens it, whatever its column says', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.insert(keyB, { id: 'under-new' });
    await database.insert(keyC, { id: 'under-unknown' });
    const { admin } = await startVault(url, staged);
    await database.run('UPDATE api_keys SET key_id = ?, key_id_tag = auth_tag', [keyIdB]);
    expect((await admin('POST', '/admin/verify')).body).toEqual({
      rows_scanned: 4,
      rows_by_key_id: { [keyIdA]: 2, [keyIdB]: 1 },
      rows_failed: 1,
      failures: [{ table: 'api_keys', id: 'under-unknown', reason: 'unknown_key_or_corrupt' }],
    });
  });
});

describe('odd rows', () => {
  it('of another program’s table without an id are named by their row id, and skipped by that name alone', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run('CREATE TABLE other_keys (id text, encrypted_value text, iv text, auth_tag text)');
    await database.run(`INSERT INTO other_keys (rowid, id, encrypted_value, iv, auth_tag)
      VALUES (-7, x'00', 'zz', 'zz', 'zz'), (1, NULL, 'zz', 'zz', 'zz'), (2, '1', 'zz', 'zz', 'zz')`);
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,other_keys,other_keys' });
    const failed = await admin('POST', '/admin/rotate/dry-run');
    expect(failed.body.error.details.failures.map(({ id }: { id: string }) => id)).toEqual(['rowid:-7', 'rowid:1', '1']);
    const skipped = await admin('POST', '/admin/rotate/dry-run', { skip_ids: ['rowid:-7', 'rowid:1'] });
    expect(skipped.body.error.details.failures.map(({ id }: { id: string }) => id)).toEqual(['1']);
    const both = await admin('POST', '/admin/rotate/execute', { skip_ids: ['rowid:-7', 'rowid:1', 'other_keys:1'] });
    expect(both.body.rotation).toMatchObject({ state: 'completed', rows_scanned: 4, rows_skipped: 3 });
    const { keys } = (await admin('GET', '/admin/master-keys')).body;
    expect(keys.find(({ key_id }: { key_id: string }) => key_id === keyIdA)).toMatchObject({ rows: 0, safe_to_retire: false });
  });

  it('are skipped by what they are called, also where that looks like a row id, or is a number', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run('CREATE TABLE other_keys (id, encrypted_value text, iv text, auth_tag text)');
    const ids = ['rowid:99', 'rowid:-7', 5, 2.5, '007'];
    for (const id of ids) await database.run("INSERT INTO other_keys VALUES (?, 'zz', 'zz', 'zz')", [id]);
    await database.run('UPDATE other_keys SET id = 5 WHERE id = 5.0');
    const { admin } = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,other_keys' });
    const failed = await admin('POST', '/admin/rotate/dry-run');
    const named = failed.body.error.details.failures.map(({ id }: { id: string }) => id);
    expect(named).toEqual(['rowid:99', 'rowid:-7', '5', '2.5', '007']);
    const { body } = await admin('POST', '/admin/rotate/execute', { skip_ids: named });
    expect(body.rotation).toMatchObject({ state: 'completed', rows_scanned: 6, rows_skipped: 5 });
    for (const id of ['7', 'rowid:1', '5.0', 'x']) {
      expect((await admin('POST', '/admin/rotate/dry-run', { skip_ids: [id] })).status, id).toBe(400);
    }
  });

  it('with a time that no calendar has are listed and decrypted like any other', async () => {
    const { url, gateway: database } = await tableOf(1);
    const { gateway } = await startVault(url);
    for (const time of ['9223372036854775807', '1745000000000000', '1745000000000', "'yesterday'"]) {
      await database.run(`UPDATE api_keys SET created_at = ${time}, updated_at = ${time}`);
      expect((await gateway('GET', '/v1/api-keys')).body.keys[0].created_at).toBe('1970-01-01T00:00:00.000Z');
      expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'row-0' })).status).toBe(200);
    }
  });
});

describe('tables', () => {
  it('are the same in upper and lower case, as they are to SQLite, and each is covered once', async () => {
    const { url, gateway: database } = await tableOf(2);
    await database.run('CREATE TABLE Copy AS SELECT * FROM api_keys');
    await database.run('CREATE TABLE Backup AS SELECT * FROM api_keys');
    const settings = { VAULT_ENCRYPTED_TABLES: 'API_KEYS,copy,api_keys,COPY', VAULT_EXEMPT_TABLES: 'backup' };
    const { admin } = await startVault(url, { ...staged, ...settings });
    const dryRun = await admin('POST', '/admin/rotate/dry-run', { skip_ids: ['COPY:row-0'] });
    expect(dryRun.body.tables).toEqual([
      { table: 'api_keys', rows: 2 },
      { table: 'copy', rows: 2 },
    ]);
    expect((await admin('POST', '/admin/rotate/execute')).body.rotation.message).toBe('rotated 4 of 4 row(s).');
    expect((await admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdB]: 4 });
    expect((await admin('GET', '/ready')).body.warnings).toEqual([]);
  });
});

describe('a row that was skipped', () => {
  it('keeps the old key also where the setting spells its table otherwise now', async () => {
    const { url, gateway: database } = await tableOf(1);
    await database.run('CREATE TABLE Copy AS SELECT * FROM api_keys');
    await database.run("UPDATE Copy SET auth_tag = '00'");
    const first = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,Copy' });
    expect((await first.admin('POST', '/admin/rotate/execute', { skip_ids: ['Copy:row-0'] })).status).toBe(200);
    await first.close();
    const respelt = await startVault(url, { ...staged, VAULT_ENCRYPTED_TABLES: 'api_keys,copy' });
    const { keys } = (await respelt.admin('GET', '/admin/master-keys')).body;
    expect(keys).toMatchObject([
      { key_id: keyIdA, rows: 0, safe_to_retire: false },
      { key_id: keyIdB, state: 'active' },
    ]);
  });
});

describe('replicas', () => {
  it('that live without both keys stop a rotation before it writes anything', async () => {
    const { url, gateway: database } = await tableOf(1);
    const behind = await startVault(url);
    const { admin } = await startVault(url, staged);
    const { status, body } = await admin('POST', '/admin/rotate/execute');
    expect([status, body.error.type]).toEqual([409, 'replica_missing_key']);
    expect(body.error.details.replicas).toMatchObject([{ missing_key_ids: [keyIdB] }]);
    expect(await database.open(keyA, 'row-0')).toBe('sample-value-of-row-0');
    expect((await admin('GET', '/admin/master-keys')).body.replicas).toHaveLength(2);
    await behind.close();
    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(200);
  });

  it('that lack a passphrase are named without its id, which helps guessing it', async () => {
    const { url, gateway: database } = await tableOf(1, 'a sample passphrase');
    const { admin } = await startVault(url, { PROVARA_MASTER_KEY: 'a sample passphrase', ...staged });
    await database.run(
      `INSERT INTO vault_replicas (id, host, key_ids, seen_at) VALUES ('r', 'sample', '["${keyIdB}"]', unixepoch())`,
    );
    const { body } = await admin('POST', '/admin/rotate/execute');
    expect(body.error.message).toContain('sample (r) lacks passphrase.');
  });

  it('that have gone stop none, also where the clock has been set back since they were heard of', async () => {
    const { url, gateway: database } = await tableOf(1);
    const { admin } = await startVault(url, staged);
    await database.run(
      `INSERT INTO vault_replicas (id, host, key_ids, seen_at) VALUES ('gone', 'sample', '["${keyIdA}"]', unixepoch() + 3600)`,
    );
    expect((await admin('GET', '/admin/master-keys')).body.replicas).toHaveLength(1);
    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(200);
  });
});
