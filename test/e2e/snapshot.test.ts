/** A snapshot out of one running service and into another: whole, and without a secret in anything that either writes. */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startServer } from '../support/process.ts';
import { sendSnapshot, takeSnapshot } from '../support/snapshot.ts';
import {
  adminToken,
  caller,
  environmentFor,
  gatewayToken,
  keyA,
  keyIdA,
  temporaryDatabase,
  temporaryFolder,
} from '../support/vault.ts';

const value = 'sample-provider-key-that-shows-nowhere';

it('moves every key to another database', async () => {
  const [folder, kept] = [temporaryFolder(), temporaryFolder()];
  const production = { NODE_ENV: 'production', VAULT_SNAPSHOT_DIR: kept };
  const first = await startServer(environmentFor(`file:${join(folder, 'first.db')}`, production));
  for (const name of ['K1', 'K2']) {
    await caller(first.origin, gatewayToken)('POST', '/v1/api-keys', { tenant_id: 'acme', name, provider: 'openai', value });
  }
  const snapshot = await takeSnapshot(first);
  const second = await startServer(environmentFor(`file:${join(folder, 'second.db')}`, production));
  expect((await sendSnapshot(second, snapshot.slice(0, -1))).status).toBe(422);
  expect((await sendSnapshot(second, snapshot, 'replace')).body).toEqual({ restored: 2, kept: 0 });
  const read = await caller(second.origin, gatewayToken)('POST', '/v1/api-keys/decrypt', { tenant_id: 'acme', name: 'K2' });
  expect(read.body.key.value).toBe(value);
  const [file = ''] = readdirSync(kept);
  const written = [first.output(), second.output(), snapshot, readFileSync(join(kept, file), 'utf8')];
  for (const text of written) {
    for (const secret of [value, keyA, gatewayToken, adminToken, Buffer.from(value).toString('hex')])
      expect(text).not.toContain(secret);
  }
  expect(second.output()).toContain('snapshot restored');
  expect(second.output()).toContain(join(kept, file));
  expect(readFileSync(join(kept, file), 'utf8')).toContain(keyIdA);
});

it('is not taken to its end once its caller has gone', async () => {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, 20_000);
  const server = await startServer(environmentFor(url));
  const headers = { Authorization: `Bearer ${adminToken}` };
  const given = { headers, signal: AbortSignal.timeout(150) };
  await expect(fetch(`${server.origin}/admin/snapshot`, given)).rejects.toThrow('aborted due to timeout');
  // Waits for its turn.
  expect(await takeSnapshot(server)).toContain('"rows":20000');
  const acts = (await gateway.rows('vault_audit')).filter(({ line }) => String(line).includes('"snapshot.take"'));
  expect(acts).toHaveLength(1);
});

it('is not put back once its caller has gone', async () => {
  const rows = 20_000;
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  const server = await startServer(environmentFor(url));
  const snapshot = await takeSnapshot(server);
  await gateway.run('DELETE FROM api_keys');
  const headers = { Authorization: `Bearer ${adminToken}`, 'Content-Type': 'application/x-ndjson' };
  const given = { method: 'POST', headers, body: snapshot, signal: AbortSignal.timeout(400) };
  await expect(fetch(`${server.origin}/admin/restore`, given)).rejects.toThrow('aborted due to timeout');
  // Waits for its turn, and finds what the first has left.
  expect(await sendSnapshot(server, snapshot)).toEqual({ status: 200, body: { restored: rows, kept: 0 } });
});

it.runIf(process.platform === 'linux')('keeps no temporary file of a caller who has gone while it was sent', async () => {
  const { url, gateway } = await temporaryDatabase();
  // More than a connection's buffers hold, so that the service is still sending.
  await gateway.fill(keyA, 5_000, 2_000);
  const server = await startServer(environmentFor(url));
  const folder = `/proc/${server.child.pid}/fd`;
  const linkOf = (name: string): string => {
    try {
      return readlinkSync(join(folder, name));
    } catch {
      // It may be closed by now.
      return '';
    }
  };
  const spools = () => readdirSync(folder).filter((name) => linkOf(name).includes('.spool'));
  const leave = new AbortController();
  const answer = await fetch(`${server.origin}/admin/snapshot`, {
    headers: { Authorization: `Bearer ${adminToken}` },
    signal: leave.signal,
  });
  expect([answer.status, spools().length]).toEqual([200, 1]);
  leave.abort();
  await expect.poll(spools).toEqual([]);
});
