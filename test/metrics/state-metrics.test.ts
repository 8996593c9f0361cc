/** What a scrape says is how the vault stands then, however often it is asked, and what it has done. */

import { expect, it } from 'vitest';
import { keyIdA, startVault, temporaryDatabase } from '../support/vault.ts';

async function start() {
  const { url, gateway } = await temporaryDatabase();
  const vault = await startVault(url);
  /** The lines of the text that begin so, but for the prefix of all. */
  const scrape = async (name: string): Promise<string[]> =>
    String((await vault.admin('GET', '/metrics')).body)
      .split('\n')
      .flatMap((line) => (line.startsWith(`provara_vault_${name}`) ? [line.slice('provara_vault_'.length)] : []));
  return { vault, gateway, scrape };
}

it('counts rows and seals once in each scrape', async () => {
  const { vault, scrape } = await start();
  await vault.gateway('POST', '/v1/api-keys', { name: 'one', provider: 'openai', value: 'sample-key-1' });
  for (let times = 0; times < 2; times += 1) {
    expect(await scrape('rows{')).toEqual([`rows{key_id="${keyIdA}"} 1`]);
    expect(await scrape('master_key_seals{')).toEqual([`master_key_seals{key_id="${keyIdA}"} 1`]);
  }
});

it('says that it is ready no longer once it is not', async () => {
  const { gateway, scrape } = await start();
  expect(await scrape('ready')).toEqual(['ready 1']);
  await gateway.run('ALTER TABLE vault_active_key RENAME TO away');
  expect(await scrape('ready')).toEqual(['ready 0']);
});

it('shows the rotation that a process is at rather than the last one, and how far it is', async () => {
  const { gateway, scrape } = await start();
  const progress = { rowsDone: 3, rowsTotal: 8, rowsPerSecond: 1, secondsLeft: 5 };
  await gateway.run(
    `INSERT INTO vault_rotations
       (id, state, from_key_id, to_key_id, upgrade_format, forced, skipped_rows, started_at, finished_at, progress)
     VALUES ('last', 'completed', ?1, ?1, 0, 0, '[]', 1, 2, NULL), ('present', 'writing', ?1, ?1, 0, 0, '[]', 3, NULL, ?2)`,
    [keyIdA, JSON.stringify(progress)],
  );
  expect(await scrape('rotation_running')).toEqual(['rotation_running 0']);
  await gateway.run("UPDATE vault_rotation_lease SET rotation_id = 'present', owner = 'another', expires_at = unixepoch() + 15");
  expect(await scrape('rotation_r')).toEqual(['rotation_running 1', 'rotation_rows_done 3', 'rotation_rows_total 8']);
  expect((await scrape('rotation_state')).filter((line) => line.endsWith(' 1'))).toEqual(['rotation_state{state="writing"} 1']);
});

it('counts every plaintext of a call, and tells calls by their method', async () => {
  const { vault, scrape } = await start();
  const { ciphertext } = (await vault.gateway('POST', '/v1/encrypt', { plaintext: 'sample' })).body;
  await vault.gateway('POST', '/v1/decrypt', { items: [{ ciphertext }, { ciphertext }, { ciphertext }] });
  const opened = `decrypts_total{key_id="${keyIdA}",outcome="opened"}`;
  expect(await scrape(opened)).toEqual([`${opened} 3`]);
  // The second store answers 200, as the list does.
  for (const value of ['one', 'two']) await vault.gateway('POST', '/v1/api-keys', { name: 'K', provider: 'openai', value });
  await vault.gateway('GET', '/v1/api-keys');
  for (const method of ['POST', 'GET']) {
    const answered = `http_request_duration_seconds_count{method="${method}",route="/v1/api-keys",status="200"}`;
    expect(await scrape(answered)).toEqual([`${answered} 1`]);
  }
});
