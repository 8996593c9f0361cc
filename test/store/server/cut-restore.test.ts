/** A restore by replacement whose last answer is lost: where it may have been carried out, the state before stays in its file. */

import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, it } from 'vitest';
import { cliActor } from '../../../src/audit/event.ts';
import { readCliConfig } from '../../../src/config.ts';
import type { VaultError } from '../../../src/errors.ts';
import { createSilentLogger } from '../../../src/logging.ts';
import { buildServices } from '../../../src/services.ts';
import { type Fault, startFaultProxy } from '../../support/fault-proxy.ts';
import { GatewayDatabase } from '../../support/gateway.ts';
import { bytesOf, linesOf, takeSnapshot } from '../../support/snapshot.ts';
import { startSqld } from '../../support/sqld.ts';
import { environmentFor, keyA, startVault, temporaryFolder } from '../../support/vault.ts';

const maxRequests = 40;

it('loses no row, whichever of its requests is cut off before the token is refused', { timeout: 240_000 }, async () => {
  const server = await startSqld();
  const proxy = await startFaultProxy(server.port);
  const folder = temporaryFolder();
  const vault = await startVault(server.url);
  const database = new GatewayDatabase(server.url);
  await database.fill(keyA, 2);
  const snapshot = await takeSnapshot(vault);
  await vault.close();
  // As a command has them: no heartbeat is among the requests.
  const { snapshots } = buildServices(
    readCliConfig(environmentFor(proxy.url, { VAULT_SNAPSHOT_DIR: folder })),
    createSilentLogger(),
  );
  await database.insert(keyA, { id: 'newer' });
  const [present, template] = [await bytesOf(database, 'api_keys'), await database.rows()];
  const kept = (): string[] => readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'));

  const told: string[] = [];
  for (let spared = 0; spared < maxRequests && told.at(-1) !== 'restored'; spared += 1) {
    await database.refill(template);
    for (const name of readdirSync(folder)) rmSync(join(folder, name));
    let request = -1;
    proxy.fault = (): Fault => {
      request += 1;
      if (request < spared) return 'none';
      return request === spared ? 'cut after' : '401 before';
    };
    const source = Readable.from([Buffer.from(snapshot)]);
    const error = await snapshots.restore(cliActor(), source, 'replace', Number.POSITIVE_INFINITY).then(
      () => null,
      (reason: VaultError) => reason,
    );
    proxy.fault = () => 'none';
    const isReplaced = (await database.rows()).length === 2;
    if (error === null) told.push('restored');
    else told.push(isReplaced ? `replaced, may be done: ${error.details?.may_be_done}` : 'refused');
    if (!isReplaced) expect(await bytesOf(database, 'api_keys')).toEqual(present);
    else expect(kept().map((file) => linesOf(file).some((line) => line.includes('newer')))).toEqual([true]);
  }
  expect(told).toContain('replaced, may be done: true');
});
