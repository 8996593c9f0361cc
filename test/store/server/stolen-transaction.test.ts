/** A server takes the lock from a transaction that is too slow for the writers behind it: nothing of it is written, and the process lives. */

import { expect, it } from 'vitest';
import { StorageUnavailableError } from '../../../src/errors.ts';
import { Database } from '../../../src/store/database.ts';
import { migrate } from '../../../src/store/migrations.ts';
import { startSqld } from '../../support/sqld.ts';

/** Some seconds of work for the server, a fraction of a second each on any machine there is. */
const slow = {
  sql: `INSERT INTO slow WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000)
    SELECT i FROM n WHERE i % 1000 = 0`,
};
const steps = 120;

it('fails whole, with every step that failed looked at', { timeout: 120_000 }, async () => {
  const { url } = await startSqld();
  const [first, second] = [new Database({ url }), new Database({ url })];
  await migrate(first);
  await first.write([{ sql: 'CREATE TABLE slow (a)' }]);
  let isOver = false;
  const others = (async () => {
    while (!isOver) await second.write([{ sql: 'UPDATE vault_master_keys SET activated_at = 1' }]).catch(() => undefined);
  })();
  const outcome: unknown = await first.write(Array(steps).fill(slow), 100_000).catch((error: unknown) => error);
  isOver = true;
  await others;
  expect(outcome).toBeInstanceOf(StorageUnavailableError);
  expect(String(outcome)).toContain('TRANSACTION_TIMEOUT');
  expect(await first.read('SELECT 1 FROM slow')).toEqual([]);
  await first.close();
  await second.close();
});
