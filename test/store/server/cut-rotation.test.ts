/** The network goes at any one request of a rotation and stays away: once it is back, the same call finishes the rotation. */

import pLimit from 'p-limit';
import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../../src/config.ts';
import { createSilentLogger } from '../../../src/logging.ts';
import { buildServices, type Services } from '../../../src/services.ts';
import { startFaultProxy } from '../../support/fault-proxy.ts';
import { GatewayDatabase, type GatewayRow, gatewayOpen } from '../../support/gateway.ts';
import { startSqld } from '../../support/sqld.ts';
import { keyA, keyB, keyIdA, keyIdB } from '../../support/vault.ts';

const rows = 40;
/** Each case waits some seconds for a network that is gone, and so does not keep the others from their turn. */
const atOnce = 40;

/** The folder of a server that has a table, and the vault's own. */
async function fill(): Promise<string> {
  const server = await startSqld();
  const database = new GatewayDatabase(server.url);
  await database.createTable();
  await database.fill(keyA, rows);
  const services = buildServices(readCliConfig({ DATABASE_URL: server.url, PROVARA_MASTER_KEY: keyA }), createSilentLogger());
  await services.migrate();
  await services.close();
  await server.stop('SIGTERM');
  return server.folder;
}

async function rotate({ rotator }: Services): Promise<string> {
  const { done } = await rotator.start({ oldKeyId: keyIdA, newKeyId: keyIdB });
  return (await done).state;
}

/** The lease that could not be given back is let run out at once; a last renewal of it may still be on its way. */
async function rotateAgain(services: Services, database: GatewayDatabase): Promise<string> {
  for (let attempt = 1; ; attempt += 1) {
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const outcome = await rotate(services).catch((error: { code?: string }) => error.code ?? String(error));
    if (outcome !== 'rotation_in_progress' || attempt === 20) return outcome;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** Cuts the network at that request of a rotation, and rotates again. Answers how many requests the first one came to. */
async function cutAt(ordinal: number, moment: 'cut before' | 'cut after', atomicRows: string, folder: string): Promise<number> {
  const server = await startSqld([], folder);
  const proxy = await startFaultProxy(server.port);
  const database = new GatewayDatabase(server.url);
  const environment = { PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: atomicRows };
  const services = buildServices(readCliConfig({ DATABASE_URL: proxy.url, ...environment }), createSilentLogger());
  let requests = 0;
  proxy.fault = () => {
    requests += 1;
    return requests < ordinal ? 'none' : moment;
  };
  const first = await rotate(services).catch((error: { code?: string }) => error.code ?? String(error));
  const reached = requests;
  if (reached >= ordinal)
    expect(['storage_unavailable', 'rotation_in_progress'], `${moment} request ${ordinal}`).toContain(first);
  proxy.fault = () => 'none';
  if (reached >= ordinal) expect(await rotateAgain(services, database), `${moment} request ${ordinal}`).toBe('completed');
  const found = (await database.rows()) as unknown as GatewayRow[];
  expect(found.map((row) => gatewayOpen(keyB, row))).toEqual(found.map(({ id }) => `sample-value-of-${id}`));
  expect(found).toHaveLength(rows);
  await services.close();
  // As many servers as there are cases would be more than there are ports.
  await server.stop();
  return reached;
}

describe('the network, cut before or after any one request', () => {
  it.each([
    ['in one commit', '10000'],
    ['in chunks', '10'],
  ])('of a rotation %s, does not keep it from being finished', { timeout: 400_000 }, async (_mode, atomicRows) => {
    const folder = await fill();
    const requests = await cutAt(Number.POSITIVE_INFINITY, 'cut before', atomicRows, folder);
    expect(requests).toBeGreaterThan(20);
    const limit = pLimit(atOnce);
    const ordinals = Array.from({ length: requests }, (_, index) => index + 1);
    const cut = (moment: 'cut before' | 'cut after') =>
      ordinals.map((ordinal) => limit(() => cutAt(ordinal, moment, atomicRows, folder)));
    const reached = await Promise.all([...cut('cut before'), ...cut('cut after')]);
    // One more or less, by when the lease is renewed.
    expect(reached.filter((count, index) => count > index % requests).length).toBeGreaterThan(2 * requests - 5);
  });
});
