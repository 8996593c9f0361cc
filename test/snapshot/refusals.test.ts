/** A snapshot that is not whole, not authentic or not of these tables is refused with the reason, and nothing is touched. */

import { readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { sealRow } from '../../src/crypto/row.ts';
import { InvalidSnapshotError } from '../../src/errors.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { buildServices } from '../../src/services.ts';
import { checkSnapshot } from '../../src/snapshot/check.ts';
import { Spool } from '../../src/snapshot/spool.ts';
import { Database } from '../../src/store/database.ts';
import { presentGuard } from '../../src/store/restores.ts';
import { connectorTableSql } from '../support/gateway.ts';
import { bytesOf, linesOf, sendSnapshot, signed, takeSnapshot } from '../support/snapshot.ts';
import {
  adminToken,
  environmentFor,
  gatewayToken,
  keyA,
  keyB,
  keyC,
  keyIdA,
  keyIdB,
  startVault,
  temporaryDatabase,
  temporaryFolder,
  tester,
} from '../support/vault.ts';

const connectors = 'context_connector_credentials';
const covered = { VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}` };

/** A vault with a snapshot of five rows, two of which are missing and one of which is damaged by now: a restore would write. */
async function start() {
  const { url, gateway: database } = await temporaryDatabase();
  await database.run(connectorTableSql);
  const vault = await startVault(url, { ...covered, VAULT_SNAPSHOT_DIR: temporaryFolder() });
  for (const name of ['K1', 'K2', 'K3']) {
    await vault.gateway('POST', '/v1/api-keys', { tenant_id: 'acme', name, provider: 'openai', value: `sample-${name}` });
  }
  for (const table of ['api_keys', connectors]) await database.insert(keyA, { id: 'legacy' }, table);
  const snapshot = await takeSnapshot(vault);
  await database.run("DELETE FROM api_keys WHERE name IN ('K1', 'legacy')");
  await database.run(`UPDATE ${connectors} SET iv = 'no hex'`);
  const state = () => Promise.all(['api_keys', connectors, 'vault_active_key'].map((table) => bytesOf(database, table)));
  const before = await state();
  const expectRefused = async (body: string | Buffer, reason: string | RegExp, details: object = {}): Promise<void> => {
    const answer = await sendSnapshot(vault, body);
    expect([answer.status, answer.body.error.type]).toEqual([422, 'invalid_snapshot']);
    expect(answer.body.error.details).toMatchObject({ reason: expect.stringMatching(reason), ...details });
    expect(JSON.stringify(answer.body)).not.toContain('sample-K');
    expect(await state()).toEqual(before);
  };
  return { url, database, vault, snapshot, lines: linesOf(snapshot), state, before, expectRefused };
}

const body = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('');

describe('a snapshot', () => {
  it('is refused as truncated at the end of each line, and within each', async () => {
    const { lines, expectRefused } = await start();
    for (let length = 0; length < lines.length; length += 1) {
      await expectRefused(body(lines.slice(0, length)), /^truncated$/);
      const half = lines[length]?.slice(0, 20) ?? '';
      await expectRefused(body(lines.slice(0, length)) + half, /^truncated$/);
    }
    await expectRefused(body(lines).slice(0, -1), /^truncated$/);
  });

  it('is refused with one bit of it changed, wherever', { timeout: 120_000 }, async () => {
    const { snapshot, vault, expectRefused } = await start();
    const bytes = Buffer.from(snapshot, 'utf8');
    const { keyring } = readCliConfig(environmentFor('file:unused.db'));
    const refusalOf = async (body: Buffer): Promise<unknown> => {
      const spool = await Spool.from(Readable.from([body]), bytes.length);
      const refused = checkSnapshot(spool, keyring).then(
        () => null,
        (error: unknown) => error,
      );
      return refused.finally(() => spool.close());
    };
    expect(await refusalOf(bytes)).toBeNull();
    const withChanged = (bit: number): Buffer => {
      const edited = Buffer.from(bytes);
      edited.writeUInt8(edited.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      return edited;
    };
    // Each byte at least once, and each bit of the trailer.
    const trailer = 8 * (snapshot.lastIndexOf('\n', snapshot.length - 2) + 1);
    for (let bit = 0; bit < bytes.length * 8; bit += bit <= trailer - 7 ? 7 : 1) {
      expect(await refusalOf(withChanged(bit)), `bit ${bit}`).toBeInstanceOf(InvalidSnapshotError);
    }
    for (const bit of [0, trailer / 2, trailer - 8, trailer + 100]) await expectRefused(withChanged(bit), /./);
    expect((await sendSnapshot(vault, bytes)).body).toEqual({ restored: 3, kept: 2 });
  });

  it('is refused with lines twice, in another order, left out or added', async () => {
    const { lines, expectRefused } = await start();
    const [header = '', first = '', second = '', ...rest] = lines;
    const inner = lines.slice(0, -1);
    await expectRefused(body([header, first, first, second, ...rest]), 'edited');
    await expectRefused(body([header, second, first, ...rest]), 'edited');
    await expectRefused(body([header, second, ...rest]), 'edited');
    await expectRefused(body([...lines, lines.at(-1) ?? '']), 'edited');
    // And so where somebody with the key has made the trailer fit.
    await expectRefused(signed([header, first, first, second, ...rest.slice(0, -1)], keyA), 'malformed');
    await expectRefused(signed([header, second, first, ...rest.slice(0, -1)], keyA), 'malformed');
    await expectRefused(signed(inner.slice(0, -1), keyA), 'malformed');
    await expectRefused(signed([...inner, inner.at(-1) ?? ''], keyA), 'malformed');
    await expectRefused(signed([header, first.replace('{', '{"extra":1,'), second, ...rest.slice(0, -1)], keyA), 'malformed');
    const { cells, ...row } = JSON.parse(first);
    const shorter = JSON.stringify({ ...row, cells: cells.slice(0, -1) });
    await expectRefused(signed([header, shorter, second, ...rest.slice(0, -1)], keyA), 'malformed');
  });

  it('is refused with another active key than the one that signs it, and with an integer that SQLite has not', async () => {
    const { lines, expectRefused } = await start();
    const [header = '', ...rows] = lines.slice(0, -1);
    await expectRefused(signed([header.replace(keyIdA, keyIdB), ...rows], keyA), 'malformed');
    const tooLarge = rows.map((line) => line.replace(/\{"integer":"\d+"\}/, '{"integer":"9223372036854775808"}'));
    await expectRefused(signed([header, ...tooLarge], keyA), 'malformed');
  });

  it('under a key that the keyring lacks is refused and names it', async () => {
    const { lines, expectRefused } = await start();
    await expectRefused(signed(lines.slice(0, -1), keyB), 'missing_key', { key_id: keyIdB });
  });

  it('with an HMAC that is not that of the key it names is refused as foreign', async () => {
    const { lines, expectRefused } = await start();
    const forged = JSON.parse(linesOf(signed(lines.slice(0, -1), keyC)).at(-1) ?? '');
    const own = JSON.parse(lines.at(-1) ?? '');
    await expectRefused(body([...lines.slice(0, -1), JSON.stringify({ ...own, hmac: forged.hmac })]), 'foreign');
  });

  it('with a row moved to another tenant is refused and names the row', async () => {
    const { lines, expectRefused } = await start();
    const moved = lines.slice(0, -1).map((line) => (line.includes('"K2"') ? line.replace('"acme"', '"other"') : line));
    const row = JSON.parse(lines.find((line) => line.includes('"K2"')) ?? '');
    await expectRefused(body([...moved, lines.at(-1) ?? '']), 'edited');
    await expectRefused(signed(moved, keyA), 'row_does_not_open', { table: 'api_keys', id: row.cells[0] });
  });

  it('with a row under a key that the keyring lacks is refused and names the row', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
    await database.insert(keyB, { id: 'under-the-next' });
    const snapshot = await takeSnapshot(vault);
    await vault.close();
    const other = await startVault(url);
    const { status, body: answer } = await sendSnapshot(other, snapshot);
    expect([status, answer.error.details]).toEqual([
      422,
      { reason: 'row_does_not_open', table: 'api_keys', id: 'under-the-next', missing_key_ids: [keyIdB] },
    ]);
  });

  it('of a table that is not covered, not there, or of other columns is refused', async () => {
    const { url, lines, vault, database, snapshot } = await start();
    const [first = '', ...rest] = lines.slice(0, -1);
    const foreign = (change: (header: string) => string) => signed([change(first), ...rest], keyA);
    const refused = await sendSnapshot(
      vault,
      foreign((header) => header.replace('"updated_at"', '"unheard_of"')),
    );
    expect(refused.body.error.details).toMatchObject({ reason: 'unknown_columns', table: 'api_keys' });
    const { tables, ...header } = JSON.parse(first);
    const twice = JSON.stringify({ ...header, tables: [...tables, { ...tables[1], table: connectors.toUpperCase(), rows: 0 }] });
    const speltTwice = await sendSnapshot(
      vault,
      foreign(() => twice),
    );
    expect(speltTwice.body.error.details).toMatchObject({ reason: 'malformed', table: connectors.toUpperCase() });
    await vault.close();
    const narrow = await startVault(url);
    const details = (await sendSnapshot(narrow, snapshot)).body.error.details;
    expect(details).toMatchObject({ reason: 'table_not_covered', table: connectors });
    await narrow.close();
    await database.run(`DROP TABLE ${connectors}`);
    const gone = await sendSnapshot(await startVault(url, covered), snapshot);
    expect(gone.body.error.details).toMatchObject({ reason: 'table_not_found', table: connectors });
  });

  it('with a row that cannot stand beside the present ones is refused whole', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const vault = await startVault(url);
    for (const id of ['one', 'two']) await database.insert(keyA, { id });
    const snapshot = await takeSnapshot(vault);
    await database.run('DELETE FROM api_keys');
    await database.insert(keyA, { id: 'newer', name: 'two' });
    await database.run('CREATE UNIQUE INDEX gateway_name ON api_keys (name)');
    const before = await bytesOf(database, 'api_keys');
    const answer = await sendSnapshot(vault, snapshot);
    expect([answer.status, answer.body.error.details]).toEqual([422, { reason: 'constraint' }]);
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
    for (const staged of ['vault_restores', 'vault_restore_rows', 'vault_restore_present']) {
      expect((await database.client.execute(`SELECT * FROM ${staged}`)).rows).toEqual([]);
    }
  });
});

describe('a restore', () => {
  it('is refused while a rotation is unfinished, and works after it', async () => {
    const { database, vault, snapshot, state, before } = await start();
    await database.run(`INSERT INTO vault_rotations (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at)
      VALUES ('sample-rotation', 'interrupted', 'a', 'b', 0, 0, '[]', 1)`);
    const answer = await sendSnapshot(vault, snapshot);
    expect([answer.status, answer.body.error.type]).toEqual([409, 'rotation_in_progress']);
    expect(answer.body.error.details).toEqual({ rotation_id: 'sample-rotation' });
    expect(await state()).toEqual(before);
    await database.run("UPDATE vault_rotations SET state = 'cancelled'");
    expect((await sendSnapshot(vault, snapshot)).status).toBe(200);
  });

  it.each(['merge', 'replace'])('writes nothing where a rotation has begun while it was prepared: %s', async (mode) => {
    const { database, vault, snapshot, state, before } = await start();
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_rows BEGIN
      INSERT OR IGNORE INTO vault_rotations (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at)
      VALUES ('sample-rotation', 'gating', 'a', 'b', 0, 0, '[]', 1); END`);
    const answer = await sendSnapshot(vault, snapshot, mode);
    expect([answer.status, answer.body.error.details]).toEqual([409, { rotation_id: 'sample-rotation' }]);
    expect(await state()).toEqual(before);
  });

  it('works also where the lease is gone, as from a dump of some tables', async () => {
    const { database, vault, snapshot } = await start();
    await database.run('DELETE FROM vault_rotation_lease');
    expect((await sendSnapshot(vault, snapshot)).status).toBe(200);
  });

  it.each(['merge', 'replace'])('writes nothing where a whole rotation has run while it was prepared: %s', async (mode) => {
    const { database, vault, snapshot, state, before } = await start();
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_rows BEGIN
      UPDATE vault_rotation_lease SET fence = fence + 1; END`);
    const answer = await sendSnapshot(vault, snapshot, mode);
    expect([answer.status, answer.body.error.message]).toEqual([409, 'A rotation has just ended: run the restore again.']);
    expect(await state()).toEqual(before);
  });

  it('writes nothing where another process took what it staged for left behind', async () => {
    const { database, vault, snapshot, state, before } = await start();
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_rows BEGIN
      DELETE FROM vault_restore_rows; DELETE FROM vault_restores; END`);
    const answer = await sendSnapshot(vault, snapshot);
    expect([answer.status, answer.body.error.type]).toEqual([503, 'storage_unavailable']);
    expect(await state()).toEqual(before);
  });

  it('takes application/x-ndjson alone, and no mode that there is not', async () => {
    const { vault, snapshot, state, before } = await start();
    for (const type of ['application/json', 'text/plain', '']) {
      const answer = await sendSnapshot(vault, snapshot, null, type);
      expect([answer.status, answer.body.error.type]).toEqual([415, 'unsupported_media_type']);
      expect(answer.body.error.message).toContain('application/x-ndjson');
    }
    expect((await sendSnapshot(vault, snapshot, 'append')).status).toBe(400);
    expect(await state()).toEqual(before);
    expect((await sendSnapshot(vault, snapshot, 'merge', 'application/x-ndjson; charset=utf-8')).status).toBe(200);
  });

  it('and a snapshot are for admin tokens alone', async () => {
    const { vault } = await start();
    for (const [method, path] of [
      ['GET', '/admin/snapshot'],
      ['POST', '/admin/restore'],
    ] as const) {
      for (const [authorization, status] of [
        [undefined, 401],
        [`Bearer ${gatewayToken}`, 403],
      ] as const) {
        const response = await fetch(vault.origin + path, {
          method,
          headers: authorization === undefined ? {} : { authorization },
        });
        expect(response.status).toBe(status);
      }
    }
    expect((await fetch(`${vault.origin}/admin/snapshot`, { headers: { authorization: `Bearer ${adminToken}` } })).status).toBe(
      200,
    );
  });

  it('never overwrites a row that became good between the reading and the writing', async () => {
    const { database, vault, snapshot, lines } = await start();
    // What a restore stages says what it read: a row that differs from that is left alone.
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_rows WHEN new.present_row_id IS NOT NULL
      BEGIN UPDATE ${connectors} SET name = 'mended meanwhile', iv = '${'0'.repeat(32)}'; END`);
    expect((await sendSnapshot(vault, snapshot)).body).toEqual({ restored: 2, kept: 3 });
    const [row] = await database.rows(connectors);
    expect([row?.name, row?.iv]).toEqual(['mended meanwhile', '0'.repeat(32)]);
    expect(lines).toHaveLength(7);
  });
});

describe('a replacement', () => {
  it('never takes away a row that was stored after the state before was kept', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const folder = temporaryFolder();
    const vault = await startVault(url, { VAULT_SNAPSHOT_DIR: folder });
    await database.insert(keyA, { id: 'one' });
    const snapshot = await takeSnapshot(vault);
    const { encryptedValue, iv, authTag } = sealRow(parseMasterKey(keyA), null, Buffer.from('sample'));
    // Each time that the row has been noted, one more comes behind the reader's place.
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_present WHEN new.row_id = 1
      BEGIN INSERT INTO api_keys (rowid, id, name, provider, encrypted_value, iv, auth_tag, created_at, updated_at)
      SELECT min(rowid) - 1, hex(randomblob(8)), 'K', 'openai', '${encryptedValue}', '${iv}', '${authTag}', 1, 1 FROM api_keys; END`);
    const answer = await sendSnapshot(vault, snapshot, 'replace');
    expect([answer.status, answer.body.error.type]).toEqual([503, 'storage_unavailable']);
    expect((await database.rows()).length).toBe(6);
    expect(readdirSync(folder)).toEqual([]);
    await database.run('DROP TRIGGER meanwhile');
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 1, kept: 0 });
    expect(await database.rows()).toHaveLength(1);
  });

  it('never takes away a value that was stored after the state before was kept', async () => {
    const { database, vault, snapshot } = await start();
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_present WHEN new.table_name = 'api_keys'
      BEGIN UPDATE api_keys SET encrypted_value = 'newer-' || hex(randomblob(8)) WHERE rowid = new.row_id; END`);
    const answer = await sendSnapshot(vault, snapshot, 'replace');
    expect([answer.status, answer.body.error.type]).toEqual([503, 'storage_unavailable']);
    const stored = (await database.rows()).map((row) => row.encrypted_value);
    expect(stored).toEqual([expect.stringMatching(/^newer-/), expect.stringMatching(/^newer-/)]);
  });

  it('is made at another attempt where a row has gone meanwhile', async () => {
    const { database, vault, snapshot } = await start();
    await database.run(`CREATE TRIGGER meanwhile AFTER INSERT ON vault_restore_present WHEN new.table_name = '${connectors}'
      BEGIN DELETE FROM api_keys WHERE name = 'K2'; END`);
    expect((await sendSnapshot(vault, snapshot, 'replace')).body).toEqual({ restored: 5, kept: 0 });
  });

  it('is made at another attempt also where what was kept at the first has been moved away', async () => {
    const { url, snapshot, vault } = await start();
    await vault.close();
    const folder = temporaryFolder();
    let attempts = 0;
    class TidiedDatabase extends Database {
      override async write(...given: Parameters<Database['write']>): ReturnType<Database['write']> {
        attempts += given[0].some(({ guard }) => guard === presentGuard) ? 1 : 0;
        if (attempts === 1) {
          for (const name of readdirSync(folder)) rmSync(join(folder, name));
          await super.write([{ sql: "DELETE FROM api_keys WHERE name = 'K2'" }]);
        }
        return super.write(...given);
      }
    }
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...covered, VAULT_SNAPSHOT_DIR: folder };
    const services = buildServices(readCliConfig(environment), createSilentLogger(), { database: new TidiedDatabase({ url }) });
    const sent = Readable.from([Buffer.from(snapshot)]);
    const result = await services.snapshots.restore(tester, sent, 'replace', Number.POSITIVE_INFINITY);
    expect(result).toMatchObject({ restored: 5, kept: 0 });
    expect([attempts, readdirSync(folder)]).toEqual([2, [basename(result.before?.path ?? '')]]);
    await services.close();
  });

  it.each([
    ['the key that it makes active', [keyA], keyB],
    ['the key of a row that it brings back', [keyA, keyB], keyA],
  ])('stops where a live replica lacks %s', async (_key, rowKeys, replicaKey) => {
    const { url, gateway: database } = await temporaryDatabase();
    const folder = temporaryFolder();
    const settings = { PROVARA_MASTER_KEY_NEW: keyB, VAULT_SNAPSHOT_DIR: folder };
    const vault = await startVault(url, settings);
    for (const key of rowKeys) await database.insert(key, { id: parseMasterKey(key).id });
    const snapshot = await takeSnapshot(vault);
    await vault.admin('POST', '/admin/rotate/execute');
    await startVault(url, { PROVARA_MASTER_KEY: replicaKey });
    const before = await bytesOf(database, 'api_keys');
    const answer = await sendSnapshot(vault, snapshot, 'replace');
    expect([answer.status, answer.body.error.type]).toEqual([409, 'replica_missing_key']);
    expect(await bytesOf(database, 'api_keys')).toEqual(before);
  });
});
