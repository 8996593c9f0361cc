/** A gateway that caches keys notices nothing of a vault that is restarted or killed. */

import { expect, it, onTestFinished } from 'vitest';
import { VaultClient } from '../../src/client/index.ts';
import { startServer } from '../support/process.ts';
import { freePort } from '../support/sqld.ts';
import { environmentFor, gatewayToken, keyA, temporaryDatabase } from '../support/vault.ts';

it('no decrypt of a known key fails while the vault stops, is away and starts again', async () => {
  const { url, gateway } = await temporaryDatabase();
  const names = Array.from({ length: 5 }, (_, index) => `K${index}`);
  for (const name of names) await gateway.insert(keyA, { id: name, value: `sample-value-${name}` });
  const environment = environmentFor(url, { PORT: String(await freePort()) });
  const first = await startServer(environment);
  const stale = new Set<string>();
  const cache = { ttlMs: 1, staleMs: 60_000, onStale: ({ type }: { type: string }) => void stale.add(type) };
  const vault = new VaultClient({ url: first.origin, token: gatewayToken, cache });
  onTestFinished(() => vault.close());
  let isOver = false;
  const wrong: unknown[] = [];
  let answered = 0;
  const callers = names.map(async (name) => {
    while (!isOver) {
      const value = await vault.decryptKey({ name }).then(
        (key) => key.value,
        (error: unknown) => error,
      );
      if (value === `sample-value-${name}`) answered += 1;
      else wrong.push(value);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  });
  const progress = async (): Promise<void> => {
    const before = answered;
    await expect.poll(() => answered - before).toBeGreaterThan(50);
  };
  await progress();
  expect(stale).not.toContain('connection_error');
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const running = signal === 'SIGTERM' ? first : await startServer(environment);
    await progress();
    stale.clear();
    await running.stop(signal);
    await progress();
    await expect.poll(() => [...stale]).toContain('connection_error');
  }
  await startServer(environment);
  isOver = true;
  await Promise.all(callers);
  expect(wrong).toEqual([]);
  await gateway.update(keyA, 'K0', 'sample-value-after');
  await expect.poll(async () => (await vault.decryptKey({ name: 'K0' })).value).toBe('sample-value-after');
});
