/** A rotation of the service runs on threads of its own: it leaves the processors to requests, ends with the process, and refuses in full. */

import { copyFileSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startServer } from '../support/process.ts';
import {
  adminToken,
  caller,
  environmentFor,
  gatewayToken,
  keyA,
  keyB,
  keyC,
  keyIdB,
  temporaryDatabase,
  temporaryFolder,
} from '../support/vault.ts';

it('is interrupted when the service is stopped, and finished by the next start', async () => {
  const rows = 5_000;
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, rows);
  const settings = environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: '0' });
  const server = await startServer(settings);
  const begun = await caller(server.origin, adminToken)('POST', '/admin/rotate/execute?wait=0');
  expect([begun.status, begun.body.rotation.state]).toEqual([202, 'gating']);
  expect(await server.stop('SIGTERM')).toBe(0);
  const [left] = await database.rows('vault_rotations');
  expect(left?.state).toBe('interrupted');
  const admin = caller((await startServer(settings)).origin, adminToken);
  const path = `/admin/rotate/${begun.body.rotation.id}`;
  await expect.poll(async () => (await admin('GET', path)).body.rotation.state).toBe('completed');
  expect((await admin('POST', '/admin/verify')).body.rows_by_key_id).toEqual({ [keyIdB]: rows });
});

it('lets those who store come in between its commits', async () => {
  const rows = 20_000;
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, rows);
  const settings = environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: '0' });
  const { origin } = await startServer(settings);
  const [admin, gateway] = [caller(origin, adminToken), caller(origin, gatewayToken)];
  await admin('POST', '/admin/rotate/execute?wait=0');
  const rotation = async () => (await database.rows('vault_rotations'))[0];
  const rotatedMeanwhile: number[] = [];
  for (let before = await rotation(); before?.state !== 'completed'; before = await rotation()) {
    const { status } = await gateway('POST', '/v1/api-keys', { name: 'during', provider: 'openai', value: 'sample-value' });
    expect(status).toBeLessThan(300);
    rotatedMeanwhile.push(Number((await rotation())?.rows_rotated) - Number(before?.rows_rotated));
  }
  expect(Math.max(...rotatedMeanwhile)).toBeGreaterThan(0);
  expect(Math.max(...rotatedMeanwhile)).toBeLessThan(rows / 4);
});

it('says how far it is, of how many rows, from the gate on, and nothing of it once it has ended', async () => {
  const rows = 20_000;
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, rows);
  const { origin } = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
  const admin = caller(origin, adminToken);
  const { id } = (await admin('POST', '/admin/rotate/execute?wait=0')).body.rotation;
  const seen: Record<string, unknown>[] = [];
  const look = async () => (await admin('GET', `/admin/rotate/${id}`)).body.rotation;
  let rotation = await look();
  while (rotation.finished_at === null) {
    if (rotation.progress?.rows_done > 0) seen.push(rotation.progress);
    rotation = await look();
  }
  expect([rotation.state, rotation.progress]).toEqual(['completed', null]);
  expect(new Set(seen.map(({ rows_total }) => rows_total))).toEqual(new Set([rows]));
});

it('is not tried to its end once its caller has gone', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  await database.fill(keyA, 20_000);
  const { origin } = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
  const headers = { Authorization: `Bearer ${adminToken}` };
  const given = { method: 'POST', headers, signal: AbortSignal.timeout(150) };
  await expect(fetch(`${origin}/admin/rotate/dry-run`, given)).rejects.toThrow('aborted due to timeout');
  // Waits for its turn.
  expect((await caller(origin, adminToken)('POST', '/admin/rotate/dry-run')).body.rows_scanned).toBe(20_000);
  const acts = (await database.rows('vault_audit')).filter(({ line }) => String(line).includes('"rotation.dry_run"'));
  expect(acts).toHaveLength(1);
});

it('does not touch a file that has taken the place of the one that the service serves', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'a' });
  const path = url.slice('file:'.length);
  copyFileSync(path, `${path}-backup`);
  const { origin } = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB }));
  renameSync(`${path}-backup`, path);
  const before = readFileSync(path);
  for (const call of ['POST /admin/rotate/execute', 'POST /admin/verify', 'GET /admin/snapshot']) {
    const [method = '', route = ''] = call.split(' ');
    const { status, body } = await caller(origin, adminToken)(method, route);
    expect([status, body.error.message], call).toEqual([503, expect.stringContaining('another file has taken its place')]);
  }
  expect(readFileSync(path)).toEqual(before);
});

it('logs no key id of a passphrase, on the way from it and back', async () => {
  const passphrase = 'a sample passphrase';
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(passphrase, { id: 'a' });
  const server = await startServer(
    environmentFor(url, {
      PROVARA_MASTER_KEY: passphrase,
      PROVARA_MASTER_KEY_NEW: keyB,
      VAULT_AUDIT_LOG: join(temporaryFolder(), 'a.log'),
    }),
  );
  const admin = caller(server.origin, adminToken);
  const { from_key_id, to_key_id } = (await admin('POST', '/admin/rotate/execute')).body.rotation;
  expect((await admin('POST', '/admin/rotate/execute', { old_key_id: to_key_id, new_key_id: from_key_id })).status).toBe(200);
  await server.stop();
  expect(server.output().match(/rotation started/g)).toHaveLength(2);
  expect(server.output()).not.toContain(from_key_id);
});

it('answers with the gate’s failure and every row that it names', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'a' });
  await database.insert(keyC, { id: 'foreign' });
  const server = await startServer(environmentFor(url, { PROVARA_MASTER_KEY_NEW: keyB, PROVARA_MASTER_KEY_OLD: keyC }));
  for (const call of ['dry-run', 'execute']) {
    const { status, body } = await caller(server.origin, adminToken)('POST', `/admin/rotate/${call}`);
    expect([status, body.error.type, body.error.details.rows_failed]).toEqual([422, 'decrypt_gate_failed', 1]);
    expect(body.error.details.failures).toMatchObject([{ table: 'api_keys', id: 'foreign', reason: 'other_key' }]);
  }
});
