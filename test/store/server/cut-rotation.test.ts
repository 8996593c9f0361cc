/** The network goes at any one request of a rotation and stays away: once it is back, the same call finishes the rotation. */

import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../../src/config.ts';
import { createSilentLogger } from '../../../src/logging.ts';
import { buildServices, type Services } from '../../../src/services.ts';
import { type FaultProxy, startFaultProxy } from '../../support/fault-proxy.ts';
import { GatewayDatabase, type GatewayRow, gatewayOpen } from '../../support/gateway.ts';
import { type SqldServer, startSqld } from '../../support/sqld.ts';
import { keyA, keyB, keyIdA, keyIdB } from '../../support/vault.ts';

const rows = 40;
/** Each case waits some seconds for a network that is gone, and so does not keep the others from their turn. */
const atOnce = 20;

interface Bench {
  readonly server: SqldServer;
  readonly proxy: FaultProxy;
  readonly services: Services;
  readonly database: GatewayDatabase;
}

async function prepare(atomicRows: string): Promise<Bench> {
  const server = await startSqld();
  const proxy = await startFaultProxy(server.port);
  const database = new GatewayDatabase(server.url);
  await database.createTable();
  await database.fill(keyA, rows);
  const environment = { PROVARA_MASTER_KEY: keyA, PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: atomicRows };
  const services = buildServices(readCliConfig({ DATABASE_URL: proxy.url, ...environment }), createSilentLogger());
  await services.migrate();
  return { server, proxy, services, database };
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

/** Answers whether the rotation came as far as that request. */
async function cutAt(ordinal: number, moment: 'cut before' | 'cut after', atomicRows: string): Promise<boolean> {
  const { server, proxy, services, database } = await prepare(atomicRows);
  let requests = 0;
  proxy.fault = () => {
    requests += 1;
    return requests < ordinal ? 'none' : moment;
  };
  const first = await rotate(services).catch((error: { code?: string }) => error.code ?? String(error));
  const isReached = requests >= ordinal;
  if (isReached) expect(['storage_unavailable', 'rotation_in_progress'], `${moment} request ${ordinal}`).toContain(first);
  proxy.fault = () => 'none';
  expect(await rotateAgain(services, database), `${moment} request ${ordinal}`).toBe('completed');
  const found = (await database.rows()) as unknown as GatewayRow[];
  expect(found.map((row) => gatewayOpen(keyB, row))).toEqual(found.map(({ id }) => `sample-value-of-${id}`));
  expect(found).toHaveLength(rows);
  await services.close();
  // As many servers as there are cases would be more than there are ports.
  await server.stop();
  return isReached;
}

describe('the network, cut before or after any one request', () => {
  it.each([
    ['in one commit', '10000'],
    ['in chunks', '10'],
  ])('of a rotation %s, does not keep it from being finished', { timeout: 400_000 }, async (_mode, atomicRows) => {
    let reached = 0;
    for (let first = 1, isMore = true; isMore; first += atOnce) {
      const ordinals = Array.from({ length: atOnce }, (_, index) => first + index);
      const cuts = ordinals.flatMap((ordinal) => [
        cutAt(ordinal, 'cut before', atomicRows),
        cutAt(ordinal, 'cut after', atomicRows),
      ]);
      const outcomes = await Promise.all(cuts);
      reached += outcomes.filter(Boolean).length;
      isMore = outcomes.every(Boolean);
    }
    expect(reached).toBeGreaterThan(20);
  });
});
