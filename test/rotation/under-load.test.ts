/** Whoever reads and writes through the vault never notices a rotation: not on either of two replicas, not in one commit, not in chunks. */

import { describe, expect, it } from 'vitest';
import { keyA, keyB, keyIdA, keyIdB, startVault, type TestVault, temporaryDatabase } from '../support/vault.ts';

const rows = 300;
/** So many calls at least are to have come during the rotations, of which there are three or more. */
const minCalls = 100;

interface Ledger {
  readonly values: Map<string, string>;
  readonly deleted: Set<string>;
  readonly failures: unknown[];
  calls: number;
}

/** Each worker has names of its own, so that what it was told last is what must be there. */
async function work({ gateway }: TestVault, worker: number, ledger: Ledger, isRunning: () => boolean): Promise<void> {
  const expectStatus = (answer: { status: number; body: unknown }, ...statuses: number[]): void => {
    ledger.calls += 1;
    if (!statuses.includes(answer.status)) ledger.failures.push([answer.status, answer.body]);
  };
  for (let index = 0; isRunning(); index += 1) {
    const name = `row-${worker * 10 + (index % 10)}`;
    const value = `edited-${worker}-${index}`;
    const stored = await gateway('POST', '/v1/api-keys', { name, provider: 'openai', value });
    expectStatus(stored, 200, 201);
    ledger.values.set(name, value);
    ledger.deleted.delete(name);
    const read = await gateway('POST', '/v1/api-keys/decrypt', { name });
    expectStatus(read, 200);
    if (read.body.key?.value !== value) ledger.failures.push([name, value, read.body]);
    expectStatus(await gateway('POST', '/v1/api-keys/decrypt', { name: `row-${100 + ((worker * 37 + index) % 200)}` }), 200);
    if (index % 7 === 3) {
      expectStatus(await gateway('DELETE', `/v1/api-keys/${stored.body.key.id}`), 200);
      ledger.values.delete(name);
      ledger.deleted.add(name);
    }
  }
}

describe.each([
  ['in one commit', '10000'],
  ['in chunks', '50'],
])('rotations %s, there and back, under the load of two replicas', (_mode, atomicRows) => {
  it('fail no call, lose no edit, bring back no row, and leave every row under the new key', { timeout: 240_000 }, async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const many = Array.from({ length: rows }, (_, index) => ({ id: `id-${index}`, name: `row-${index}` }));
    await database.insertAll(keyA, many);
    const settings = { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_ATOMIC_ROWS: atomicRows };
    const vaults = [await startVault(url, settings), await startVault(url, settings)] as const;
    const ledger: Ledger = { values: new Map(), deleted: new Set(), failures: [], calls: 0 };
    let isRunning = true;
    const workers = [0, 1, 2, 3].map((worker) => work(vaults[worker % 2] ?? vaults[0], worker, ledger, () => isRunning));
    let [from, to] = [keyIdA, keyIdB];
    // An odd number of them, so that the rows end under the new key.
    for (let round = 0; round < 3 || round % 2 === 0 || ledger.calls < minCalls; round += 1) {
      const vault = vaults[round % 2] ?? vaults[0];
      const { body } = await vault.admin('POST', '/admin/rotate/execute?wait=120', { old_key_id: from, new_key_id: to });
      expect(body.rotation?.state, JSON.stringify(body)).toBe('completed');
      [from, to] = [to, from];
    }
    isRunning = false;
    await Promise.all(workers);
    expect(ledger.failures).toEqual([]);
    for (const [name, value] of ledger.values) {
      expect((await vaults[1].gateway('POST', '/v1/api-keys/decrypt', { name })).body.key?.value, name).toBe(value);
    }
    for (const name of ledger.deleted)
      expect((await vaults[1].gateway('POST', '/v1/api-keys/decrypt', { name })).status, name).toBe(404);
    const survey = (await vaults[0].admin('POST', '/admin/verify')).body;
    expect(Object.keys(survey.rows_by_key_id)).toEqual([keyIdB]);
    expect(survey.rows_failed).toBe(0);
  });
});
