/** Whatever is done with a key is on record before it is answered or in the same transaction, and where it cannot be, it is not done. */

import { execFileSync } from 'node:child_process';
import { readFileSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { gatewaySeal } from '../support/gateway.ts';
import { runCli } from '../support/process.ts';
import { sendSnapshot, takeSnapshot } from '../support/snapshot.ts';
import {
  caller,
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
} from '../support/vault.ts';

const value = 'sample-value-on-record';

async function start(settings: Record<string, string> = {}) {
  const { url, gateway: database } = await temporaryDatabase();
  const log = settings.VAULT_AUDIT_LOG ?? join(temporaryFolder(), 'audit.log');
  const environment = { PROVARA_MASTER_KEY_NEW: keyB, VAULT_AUDIT_LOG: log, ...settings };
  const vault = await startVault(url, environment);
  const store = (name: string, tenant_id: string | null = null) =>
    vault.gateway('POST', '/v1/api-keys', { tenant_id, name, provider: 'openai', value });
  return { url, database, vault, log, store, environment: { NODE_ENV: 'production', ...environmentFor(url, environment) } };
}

const logged = (log: string) =>
  readFileSync(log, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

/** The acts on record in the database, but for the vault's own. */
async function acts({ admin }: Awaited<ReturnType<typeof startVault>>) {
  const { records } = (await admin('GET', '/admin/audit?limit=1000')).body;
  return records.filter(({ act }: { act: string }) => !act.startsWith('audit.'));
}

/** Refuses, as a full disk would, whatever records this act. */
const refuseAct = (act: string): string =>
  `CREATE TRIGGER refuse BEFORE INSERT ON vault_audit WHEN NEW.line LIKE '%"act":"${act}"%' BEGIN SELECT RAISE(ABORT, 'refused'); END`;

describe('every use of a key', () => {
  it('that the limit on decrypts refuses is no use: nothing is opened, and nothing on record', async () => {
    const { vault, store, log } = await start({ VAULT_LIMIT_DECRYPTS: '2' });
    for (const name of ['K', 'L', 'M']) await store(name, 'acme');
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'acme' })).status).toBe(429);
    expect(logged(log).map(({ act }) => act)).toEqual(['audit.start']);
  });

  it('is in the log with who, what, which key and how it ended, and no value', async () => {
    const { vault, store, log } = await start();
    const { id } = (await store('K', 'acme')).body.key;
    await store('L', 'acme');
    await vault.gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K' });
    await vault.gateway('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'missing' });
    await vault.gateway('POST', '/v1/api-keys/decrypt-all', { tenant_id: 'acme' });
    const { ciphertext } = (await vault.gateway('POST', '/v1/encrypt', { plaintext: value })).body;
    await vault.gateway('POST', '/v1/decrypt', { items: [{ ciphertext }, { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA' }] });
    await vault.gateway('POST', '/v1/rewrap', { ciphertext: 'nonsense' });
    const [begin, ...uses] = logged(log);
    expect(begin).toMatchObject({ act: 'audit.start', actor: 'vault' });
    const row = { actor: 'gateway', role: 'gateway', tenant_id: 'acme', request_id: expect.stringMatching(/^[0-9a-f-]{36}$/) };
    expect(uses).toEqual(
      [
        { ...row, act: 'key.decrypt', outcome: 'done', name: 'K', id },
        { ...row, act: 'key.decrypt', outcome: 'not_found', name: 'missing', id: null },
        { ...row, act: 'key.decrypt', outcome: 'done', name: expect.stringMatching(/^[KL]$/) },
        { ...row, act: 'key.decrypt', outcome: 'done', name: expect.stringMatching(/^[KL]$/) },
        { act: 'text.encrypt', outcome: 'done', details: { items: 1, failed: 0, key_ids: [keyIdA] } },
        { act: 'text.decrypt', outcome: 'done', details: { items: 2, failed: 1, key_ids: [keyIdA] } },
        { act: 'text.rewrap', outcome: 'decrypt_failed', details: { items: 1, failed: 1, key_ids: [] } },
      ].map((expected) => expect.objectContaining(expected)),
    );
    expect(readFileSync(log, 'utf8')).not.toContain(value);
  });

  it('does not name a passphrase by its id, which helps guessing it', async () => {
    const passphrase = 'a sample passphrase';
    const { vault, log } = await start({ PROVARA_MASTER_KEY_OLD: passphrase });
    expect((await vault.gateway('POST', '/v1/decrypt', gatewaySeal(passphrase, value))).body.plaintext).toBe(value);
    expect(logged(log).at(-1)?.details).toEqual({ items: 1, failed: 0, key_ids: ['passphrase'] });
  });

  it('is refused with 503 and no plaintext while the log takes no record, and goes on when it does', async () => {
    const log = join(temporaryFolder(), 'audit.log');
    symlinkSync('/dev/full', log);
    const { vault, store } = await start({ VAULT_AUDIT_LOG: log });
    expect((await store('K')).status).toBe(201);
    const use = () =>
      Promise.all([
        vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'K' }),
        vault.gateway('POST', '/v1/api-keys/decrypt-all', {}),
        vault.gateway('POST', '/v1/encrypt', { plaintext: value }),
        vault.gateway('POST', '/v1/decrypt', { ciphertext: 'pv1.77a1e1a4f0c2b9d3.AAAA' }),
      ]);
    for (const { status, headers, body } of await use()) {
      expect([status, body.error.type, headers.get('retry-after')]).toEqual([503, 'storage_unavailable', '1']);
      expect(JSON.stringify(body)).not.toContain(value);
    }
    const warnings = async (): Promise<string[]> => (await vault.gateway('GET', '/ready')).body.warnings;
    expect(await warnings()).toEqual([expect.stringContaining('VAULT_AUDIT_LOG')]);
    unlinkSync(log);
    await vault.services.reopenAuditLog();
    expect((await use()).map(({ status }) => status)).toEqual([200, 200, 200, 422]);
    expect(await warnings()).toEqual([]);
    expect(logged(log)[0]).toMatchObject({ act: 'audit.start', seq: 1 });
  });
});

describe('a write', () => {
  it('is on record with the row that it was about', async () => {
    const { vault, store } = await start();
    const { id } = (await store('K', 'acme')).body.key;
    await store('K', 'acme');
    await vault.gateway('DELETE', `/v1/api-keys/${id}?tenant_id=acme`);
    await vault.gateway('DELETE', `/v1/api-keys/${id}?tenant_id=acme`);
    const row = { actor: 'gateway', role: 'gateway', outcome: 'done', tenant_id: 'acme', name: 'K', id };
    expect(await acts(vault)).toEqual(
      ['key.store', 'key.store', 'key.delete'].map((act) => expect.objectContaining({ ...row, act })),
    );
  });

  it.each(['key.store', 'key.delete'])('%s whose record cannot be written is not done', async (act) => {
    const { vault, database, store } = await start();
    const { id } = (await store('K')).body.key;
    const before = await database.rows();
    await database.client.execute(refuseAct(act));
    const answer = await (act === 'key.store' ? store('K') : vault.gateway('DELETE', `/v1/api-keys/${id}`));
    expect(answer.status).toBe(500);
    expect(await database.rows()).toEqual(before);
    expect((await acts(vault)).map((record: { act: string }) => record.act)).toEqual(['key.store']);
  });

  it('beside many others leaves a chain that verifies, also where several stores of one name meet', async () => {
    const { store, vault, log, environment } = await start();
    await Promise.all(Array.from({ length: 60 }, (_, index) => store(`K${index % 7}`)));
    await vault.gateway('DELETE', '/v1/api-keys/nothing');
    expect(await acts(vault)).toHaveLength(60);
    await vault.close();
    const { code, stdout, stderr } = await runCli(['audit', 'verify', '--file', log], environment);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toContain('0 finding(s)');
  });
});

describe('an admin act', () => {
  it('is on record: dry runs, rotations from start to end, verifications, snapshots and restores, also those refused', async () => {
    const { vault } = await start({ VAULT_SNAPSHOT_DIR: temporaryFolder() });
    await vault.admin('POST', '/admin/rotate/dry-run');
    await vault.admin('POST', '/admin/rotate/execute');
    await vault.admin('POST', '/admin/rotate/execute', { old_key_id: keyIdA, new_key_id: keyIdA });
    await vault.admin('POST', '/admin/rotate/unknown/cancel');
    await vault.admin('POST', '/admin/verify');
    const snapshot = await takeSnapshot(vault);
    await sendSnapshot(vault, snapshot);
    await sendSnapshot(vault, snapshot, 'replace');
    await sendSnapshot(vault, snapshot.replace('api_keys', 'api_kays'));
    const found = await acts(vault);
    expect(found.map(({ act, outcome }: { act: string; outcome: string }) => `${act} ${outcome}`)).toEqual([
      'rotation.dry_run done',
      'rotation.start done',
      'rotation.switch done',
      'rotation.end done',
      'rotation.start validation_error',
      'rows.verify done',
      'snapshot.take done',
      'snapshot.restore done',
      'snapshot.restore done',
      'snapshot.restore invalid_snapshot',
    ]);
    for (const record of found) expect(record).toMatchObject({ actor: 'operator', role: 'admin' });
    expect(found[1].details).toMatchObject({ from_key_id: keyIdA, to_key_id: keyIdB, forced: false, resumed: false });
    expect(found[8].details).toMatchObject({ mode: 'replace', before_sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
  });

  it.each([
    ['snapshot.take', 'GET', '/admin/snapshot'],
    ['rows.verify', 'POST', '/admin/verify'],
    ['rotation.dry_run', 'POST', '/admin/rotate/dry-run'],
  ])('%s whose record cannot be written is not answered', async (act, method, path) => {
    const { vault, database, store } = await start();
    await store('K');
    await database.client.execute(refuseAct(act));
    const { status, body } = await vault.admin(method, path);
    expect([status, body.error.type]).toEqual([500, 'internal_error']);
    await database.client.execute('DROP TRIGGER refuse');
    expect((await vault.admin(method, path)).status).toBe(200);
  });

  it('of a rotation in one commit is in the transaction that switches the key: without its record nothing changes', async () => {
    const { vault, database, store } = await start();
    await store('K');
    const before = await database.rows();
    await database.client.execute(refuseAct('rotation.switch'));
    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(503);
    expect(await database.rows()).toEqual(before);
    expect((await database.rows('vault_active_key')).map(({ key_id }) => key_id)).toEqual([keyIdA]);
    await database.client.execute('DROP TRIGGER refuse');
    expect((await vault.admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ rows_rotated: 1 });
    const found = await acts(vault);
    expect(found.map(({ act, outcome }: { act: string; outcome: string }) => `${act} ${outcome}`)).toEqual([
      'key.store done',
      'rotation.start done',
      'rotation.end failed',
      'rotation.start done',
      'rotation.switch done',
      'rotation.end done',
    ]);
  });

  it('from the command line is on record as that, and a dry run there writes nothing', async () => {
    const { vault, environment } = await start();
    const keys = { ...environment, PROVARA_MASTER_KEY_OLD: keyA };
    expect((await runCli(['rotate', '--dry-run'], keys)).code).toBe(0);
    expect(await acts(vault)).toEqual([]);
    expect((await runCli(['rotate', '--force'], keys)).code).toBe(0);
    expect((await runCli(['snapshot'], keys)).code).toBe(0);
    const found = await acts(vault);
    expect(found.map(({ act, actor, role }: Record<string, string>) => [act, actor, role])).toEqual(
      ['rotation.start', 'rotation.switch', 'rotation.end', 'snapshot.take'].map((act) => [act, 'cli', 'cli']),
    );
    expect(found[0].details).toMatchObject({ forced: true });
  });
});

describe('a record', () => {
  it('is signed under another key of the keyring while a passphrase is active, which its signature would help guessing', async () => {
    const passphrase = 'a sample passphrase';
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(passphrase, { id: 'row', name: 'K' });
    const log = join(temporaryFolder(), 'audit.log');
    const settings = { PROVARA_MASTER_KEY: passphrase, PROVARA_MASTER_KEY_NEW: keyB, VAULT_AUDIT_LOG: log };
    const { gateway, admin } = await startVault(url, settings);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(200);
    expect((await admin('POST', '/admin/verify')).body.rows_by_key_id).not.toHaveProperty(keyIdB);
    const table = (await database.rows('vault_audit')).map(({ line }) => JSON.parse(String(line)));
    for (const records of [logged(log), table]) {
      expect(records.length).toBeGreaterThan(1);
      expect(new Set(records.map(({ key_id }) => key_id))).toEqual(new Set([keyIdB]));
    }
  });
});

describe('what comes after a rotation', () => {
  it('is signed under the new key, in the log and in the table', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const log = join(temporaryFolder(), 'audit.log');
    const { gateway, admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_AUDIT_LOG: log });
    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(200);
    const body = { name: 'K', provider: 'openai', value: 'sample-value' };
    expect((await gateway('POST', '/v1/api-keys', body)).status).toBe(201);
    expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).status).toBe(200);
    const stored = (await database.rows('vault_audit')).map(({ line }) => JSON.parse(String(line))).at(-1);
    expect([stored.key_id, logged(log).at(-1).key_id]).toEqual([keyIdB, keyIdB]);
  });
});

describe('GET /admin/audit', () => {
  it('goes through all records in pages, and on from the last one seen', async () => {
    const { vault, store } = await start();
    for (let index = 0; index < 5; index += 1) await store(`K${index}`);
    const seen: string[] = [];
    let after: string | null = '';
    while (after !== null) {
      const { body } = await vault.admin('GET', `/admin/audit?limit=2${after === '' ? '' : `&after=${after}`}`);
      expect(body.records.length).toBeLessThanOrEqual(2);
      seen.push(...body.records.map(({ name, cursor }: { name: string; cursor: string }) => `${name} ${cursor}`));
      after = body.next_cursor;
    }
    expect(seen.map((text) => text.split(' ')[0])).toEqual(['null', 'K0', 'K1', 'K2', 'K3', 'K4']);
    await store('K5');
    const { body } = await vault.admin('GET', `/admin/audit?after=${seen.at(-1)?.split(' ')[1]}`);
    expect(body.records.map(({ name }: { name: string }) => name)).toEqual(['K5']);
    expect(JSON.stringify(body)).not.toContain(value);
  });

  it.each(['x', Buffer.from('["-1"]').toString('base64url'), Buffer.from('["text:4B"]').toString('base64url')])(
    'refuses the cursor %j',
    async (cursor) => {
      const { vault } = await start();
      expect((await vault.admin('GET', `/admin/audit?after=${cursor}`)).status).toBe(400);
    },
  );

  it('shows a line that another program has put there as far as it can be read', async () => {
    const { vault, database } = await start();
    for (const [sequence, rest] of ['"seq":1.5', '"seq":1e999', '"details":[1]'].entries())
      await database.run("INSERT INTO vault_audit (chain, sequence, line) VALUES ('x', ?, ?)", [sequence, `{"audit":1,${rest}}`]);
    const { status, body } = await vault.admin('GET', '/admin/audit');
    expect(status).toBe(200);
    expect(body.records.slice(-3)).toMatchObject(Array(3).fill({ seq: null, details: null }));
  });

  it('is the operator’s alone', async () => {
    const { vault } = await start();
    expect((await caller(vault.origin, gatewayToken)('GET', '/admin/audit')).status).toBe(403);
  });
});

describe('audit verify', () => {
  it('finds what was done to the table and to the log, by the anchors in each also a tail that was cut', async () => {
    const { vault, database, store, log, environment } = await start();
    for (let index = 0; index < 4; index += 1) await store(`K${index}`);
    for (let index = 0; index < 4; index += 1) await vault.gateway('POST', '/v1/api-keys/decrypt', { name: `K${index}` });
    await vault.close();
    const verify = (...args: string[]) => runCli(['audit', 'verify', '--json', ...args], environment);
    const findings = (stdout: string): string[] =>
      JSON.parse(stdout).findings.map(
        ({ kind, place }: { kind: string; place: string }) => `${kind} ${place.replace(/.*\//, '')}`,
      );
    expect(await verify('--file', log)).toMatchObject({ code: 0, stderr: '' });

    const whole = readFileSync(log, 'utf8').split('\n').slice(0, -1);
    writeFileSync(log, `${whole.slice(0, 3).join('\n')}\n`);
    const cut = await verify('--file', log);
    expect([cut.code, findings(cut.stdout)]).toEqual([8, [expect.stringMatching(/^missing vault_audit:\d+$/)]]);

    writeFileSync(log, `${whole.join('\n')}\n`);
    await database.client.execute('DELETE FROM vault_audit WHERE line LIKE \'%"name":"K1"%\'');
    const removed = await verify('--file', log);
    expect([removed.code, findings(removed.stdout)]).toEqual([8, ['missing vault_audit:4']]);
    const offline = await runCli(['audit', 'verify', '--no-database', '--file', log], environment);
    expect([offline.code, offline.stdout]).toEqual([0, expect.stringContaining('name records of what was not read')]);

    await database.client.execute('DELETE FROM vault_audit WHERE position > 4');
    const tail = await verify('--file', log);
    expect(findings(tail.stdout)).toEqual(['missing vault_audit:4', expect.stringMatching(/^missing audit\.log:\d+$/)]);
  });

  it('reads whatever a name may hold', async () => {
    const { vault, store, log, environment } = await start();
    for (const name of ['a\u2028b', 'c\u2029"\\d', '{"audit":1,', '😀']) {
      await store(name);
      expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name })).status).toBe(200);
    }
    await vault.close();
    expect(await runCli(['audit', 'verify', '--file', log], environment)).toMatchObject({ code: 0, stderr: '' });
  });

  it('says which key it lacks, what is wrong with its flags, and how it is called', async () => {
    const { vault, environment } = await start();
    await vault.close();
    const lacking = await runCli(['audit', 'verify'], { ...environment, PROVARA_MASTER_KEY: keyC });
    expect([lacking.code, lacking.stderr]).toEqual([8, expect.stringContaining(keyIdA)]);
    expect((await runCli(['audit', 'verify', '--file', 'nowhere'], environment)).code).toBe(2);
    expect((await runCli(['audit', 'verify', '--no-database'], environment)).code).toBe(2);
    // It would be empty at the second time, and all well.
    const pipe = join(temporaryFolder(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const piped = await runCli(['audit', 'verify', '--no-database', '--file', pipe], environment);
    expect([piped.code, piped.stderr]).toEqual([2, expect.stringContaining('is read twice')]);
    const help = await runCli(['audit', 'verify', '--help'], {});
    expect([help.code, help.stdout]).toEqual([0, expect.stringContaining('npx provara-vault audit verify --file')]);
  });
});
