/** A server is reached over a web socket as well as over HTTP. */

import { expect, it } from 'vitest';
import { startSqld } from '../../support/sqld.ts';
import { keyB, keyIdB, startVault } from '../../support/vault.ts';

it('stores, decrypts and rotates over ws:, and goes on after the server was restarted', { timeout: 60_000 }, async () => {
  const server = await startSqld();
  const { gateway, admin } = await startVault(server.url.replace('http:', 'ws:'), { PROVARA_MASTER_KEY_NEW: keyB });
  await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-1' });
  expect((await admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({ state: 'completed', rows_rotated: 1 });
  await server.stop('SIGKILL');
  expect((await gateway('GET', '/ready')).status).toBe(503);
  await server.start();
  expect((await gateway('GET', '/ready')).status).toBe(200);
  const replaced = await gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value: 'sample-2' });
  expect([replaced.status, replaced.body.key.key_id]).toEqual([200, keyIdB]);
  expect((await gateway('POST', '/v1/api-keys/decrypt', { name: 'K' })).body.key.value).toBe('sample-2');
});
