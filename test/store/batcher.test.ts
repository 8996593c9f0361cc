/** Calls that are batched: each caller gets its own answer, what is at fault fails alone, and a late call holds up those after it only a while. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { StorageUnavailableError } from '../../src/errors.ts';
import { Batcher } from '../../src/store/batcher.ts';
import { keyA, startVault, temporaryDatabase } from '../support/vault.ts';

const limits = { maxItems: 32, maxConcurrency: 4, isDivisible: () => false };

/** Queries that end when they are told to. */
function heldQueries() {
  const queries: { readonly items: readonly number[]; readonly end: () => void }[] = [];
  const reads = new Batcher<number, string>({
    ...limits,
    process: (items) =>
      new Promise((resolve) => {
        queries.push({ items, end: () => resolve(items.map((item) => `answer ${item}`)) });
      }),
  });
  return { queries, reads };
}

/** Each query begins in a turn of its own: more turns than any of these tests has queries. */
async function someTurns(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) await nextTurn();
}

describe('what is asked in one turn', () => {
  it('is one query, and each item has its own answer', async () => {
    const { queries, reads } = heldQueries();
    const answers = Promise.all([1, 2, 3].map((item) => reads.submit(item)));
    await someTurns();
    expect(queries.map(({ items }) => items)).toEqual([[1, 2, 3]]);
    queries[0]?.end();
    expect(await answers).toEqual(['answer 1', 'answer 2', 'answer 3']);
  });

  it('fails as one, and what is asked later does not', async () => {
    let isBroken = true;
    const reads = new Batcher<number, number>({
      ...limits,
      process: async (items) => {
        if (isBroken) throw new Error('broken');
        return items;
      },
    });
    const outcomes = await Promise.allSettled([reads.submit(1), reads.submit(2)]);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    isBroken = false;
    expect(await reads.submit(3)).toBe(3);
  });

  it('fails for those at fault alone where the call has done nothing', async () => {
    const reads = new Batcher<number, number>({
      ...limits,
      isDivisible: (error) => error instanceof RangeError,
      process: async (items) => {
        if (items.includes(3) || items.includes(4)) throw new RangeError('at fault');
        return items;
      },
    });
    const outcomes = await Promise.allSettled([1, 2, 3, 4, 5].map((item) => reads.submit(item)));
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected', 'fulfilled']);
  });
});

describe('while queries are under way', () => {
  it('at most four are, and all that is asked meanwhile is one more once one of them has ended', async () => {
    const { queries, reads } = heldQueries();
    const answers = [];
    for (let item = 1; item <= 10; item += 1) {
      answers.push(reads.submit(item));
      await someTurns();
    }
    expect(queries.map(({ items }) => items)).toEqual([[1], [2], [3], [4]]);
    queries[1]?.end();
    await someTurns();
    expect(queries.slice(4).map(({ items }) => items)).toEqual([[5, 6, 7, 8, 9, 10]]);
    for (const { end } of queries) end();
    expect(await Promise.all(answers)).toEqual(Array.from({ length: 10 }, (_, index) => `answer ${index + 1}`));
  });

  it('what has waited too long is told so, and what came after it is asked', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    onTestFinished(() => void vi.useRealTimers());
    const { queries, reads } = heldQueries();
    const answers = [];
    for (let item = 1; item <= 4; item += 1) {
      answers.push(reads.submit(item));
      await someTurns();
    }
    const late = reads.submit(5).catch((error: unknown) => error);
    vi.advanceTimersByTime(5_001);
    answers.push(reads.submit(6));
    queries[0]?.end();
    await someTurns();
    expect(queries.slice(4).map(({ items }) => items)).toEqual([[6]]);
    expect(await late).toBeInstanceOf(StorageUnavailableError);
    for (const { end } of queries) end();
    expect(await Promise.all(answers)).toHaveLength(5);
  });

  it('more items than one query takes are several', async () => {
    const { queries, reads } = heldQueries();
    const answers = Promise.all(Array.from({ length: 75 }, (_, item) => reads.submit(item)));
    await someTurns();
    expect(queries.map(({ items }) => items.length)).toEqual([32, 32, 11]);
    for (const { end } of queries) end();
    expect((await answers)[74]).toBe('answer 74');
  });
});

describe('names that are opened at once', () => {
  it('each get their own value, of their own tenant, also where some are not there or do not open', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    for (const tenantId of [null, 'acme', 'ACME', '']) {
      for (const name of ['one', 'two', 'it\'s ["odd"]']) {
        await database.insert(keyA, { id: `${tenantId} ${name}`, tenantId, name, value: `sample of ${tenantId} ${name}` });
      }
    }
    await database.run("UPDATE api_keys SET auth_tag = '00' WHERE tenant_id = 'acme' AND name = 'two'");
    const asked = [null, 'acme', 'ACME', 'other'].flatMap((tenantId) =>
      ['one', 'two', 'it\'s ["odd"]', 'none'].map((name) => ({ tenant_id: tenantId, name })),
    );
    const answers = await Promise.all(asked.map((body) => gateway('POST', '/v1/api-keys/decrypt', body)));
    const outcomes = answers.map(({ status, body }) => body.key?.value ?? status);
    const expected = asked.map(({ tenant_id, name }) => {
      if (tenant_id === 'other' || name === 'none') return 404;
      return tenant_id === 'acme' && name === 'two' ? 422 : `sample of ${tenant_id} ${name}`;
    });
    expect(outcomes).toEqual(expected);
  });

  it('come back also where all of them are as large as a value may be', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    const { gateway } = await startVault(url);
    const names = Array.from({ length: 100 }, (_, index) => `large-${index}`);
    for (const name of names) await database.insert(keyA, { id: name, value: name.padEnd(65_536, 'x') });
    const answers = await Promise.all(names.map((name) => gateway('POST', '/v1/api-keys/decrypt', { name })));
    expect(answers.map(({ status, body }) => body.key?.value ?? [status, body.error.message])).toEqual(
      names.map((name) => name.padEnd(65_536, 'x')),
    );
  });
});
