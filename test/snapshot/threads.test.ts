/** A thread takes a snapshot and puts it back as this one does, says why not, and ends with the process, with nothing written. */

import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { type CoreConfig, readCliConfig, type ThreadSettings } from '../../src/config.ts';
import { StorageUnavailableError } from '../../src/errors.ts';
import { Spool } from '../../src/snapshot/spool.ts';
import { assemble } from '../../src/snapshot/take.ts';
import { SnapshotThreads } from '../../src/snapshot/threads.ts';
import { bytesOf, takeSnapshot } from '../support/snapshot.ts';
import { environmentFor, keyA, startVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const entry = new URL('../../dist/threads/snapshot-thread.js', import.meta.url);
const actor = { name: 'tester', role: 'admin', requestId: null } as const;

async function start(rows: number) {
  const { url, gateway } = await temporaryDatabase();
  await gateway.fill(keyA, rows);
  const vault = await startVault(url);
  const config = readCliConfig(environmentFor(url, { VAULT_SNAPSHOT_DIR: temporaryFolder() }));
  const told: string[] = [];
  const threads = threadsOf(config, entry, () => told.push('switched'));
  onTestFinished(() => threads.close());
  return { vault, gateway, config, threads, told };
}

function threadsOf({ keyring, ...config }: CoreConfig, file: URL, onSwitched: () => void = () => undefined) {
  return new SnapshotThreads({ entry: file, settings: { ...config, keys: keyring.given }, onSwitched });
}

const spoolOf = (snapshot: string) => Spool.from(Readable.from([Buffer.from(snapshot)]), Number.POSITIVE_INFINITY);

async function textOf(chunks: AsyncIterable<Buffer>): Promise<string> {
  let text = '';
  for await (const chunk of chunks) text += chunk.toString('latin1');
  return text;
}

/** All but what a time is in. */
const rowsOf = (snapshot: string) => snapshot.split('\n').slice(1, -2);

it('takes what this thread would, and puts it back', async () => {
  const { vault, gateway, config, threads, told } = await start(1_200);
  const here = await takeSnapshot(vault);
  const { header, chunks, close } = assemble(await threads.take(), config.keyring);
  const taken = await textOf(chunks());
  await close();
  expect([header.tables[0]?.rows, rowsOf(taken)]).toEqual([1_200, rowsOf(here)]);
  const before = await bytesOf(gateway, 'api_keys');
  await gateway.run('DELETE FROM api_keys WHERE rowid % 2 = 0');
  expect(await threads.restore(actor, await spoolOf(taken), 'merge')).toMatchObject({ restored: 600, kept: 600 });
  expect([await bytesOf(gateway, 'api_keys'), told]).toEqual([before, []]);
  await gateway.run('DELETE FROM api_keys');
  expect(await threads.restore(actor, await spoolOf(taken), 'replace')).toMatchObject({ restored: 1_200 });
  expect([await bytesOf(gateway, 'api_keys'), told]).toEqual([before, ['switched']]);
});

it('refuses as this thread would', async () => {
  const { vault, threads } = await start(20);
  const edited = (await takeSnapshot(vault)).replace('"openai"', '"0penai"');
  await expect(threads.restore(actor, await spoolOf(edited), 'merge')).rejects.toMatchObject({
    code: 'invalid_snapshot',
    details: { reason: 'edited' },
  });
});

it('says so where a thread cannot start', async () => {
  const { vault, config } = await start(20);
  const threads = threadsOf(config, new URL('file:///nowhere/snapshot-thread.js'));
  await expect(threads.take()).rejects.toThrow();
  await expect(threads.restore(actor, await spoolOf(await takeSnapshot(vault)), 'merge')).rejects.toThrow();
});

/** A thread that notes whether another is at work meanwhile. */
const overlapping = new URL(
  `data:text/javascript,${encodeURIComponent(`
  import { parentPort } from 'node:worker_threads';
  parentPort.on('message', ({ number, request }) => {
    const counts = new Int32Array(request.settings.counts);
    if (Atomics.add(counts, 0, 1) > 0) Atomics.store(counts, 1, 1);
    Atomics.wait(counts, 2, 0, 100);
    Atomics.sub(counts, 0, 1);
    parentPort.postMessage({ number, outcome: { kind: 'done', response: {} } });
  });
`)}`,
);

it('takes one after the other', async () => {
  const counts = new SharedArrayBuffer(12);
  const threads = new SnapshotThreads({
    entry: overlapping,
    settings: { counts } as unknown as ThreadSettings,
    onSwitched: () => undefined,
  });
  await Promise.all([threads.take(), threads.take(), threads.take()]);
  expect([...new Int32Array(counts)]).toEqual([0, 0, 0]);
});

it('takes none that nobody waits for', async () => {
  const { threads } = await start(20_000);
  const gone = new AbortController();
  const ends = Promise.allSettled([threads.take(gone.signal), threads.take(gone.signal), threads.take()]);
  await sleep(100);
  gone.abort(new StorageUnavailableError('Nobody waits for the snapshot.'));
  const [first, second, third] = await ends;
  expect([first?.status, second?.status, third?.status]).toEqual(['rejected', 'rejected', 'fulfilled']);
  if (third?.status === 'fulfilled') await third.value.spool.close();
});

it('puts nothing back for a caller who has gone, whether it waits for its turn or is at work', async () => {
  const { vault, gateway, threads } = await start(20_000);
  const snapshot = await takeSnapshot(vault);
  await gateway.run('DELETE FROM api_keys');
  const gone = new AbortController();
  const [atWork, waiting] = [await spoolOf(snapshot), await spoolOf(snapshot)];
  const ends = Promise.allSettled([atWork, waiting].map((spool) => threads.restore(actor, spool, 'replace', gone.signal)));
  await sleep(100);
  const reason = new StorageUnavailableError('Nobody waits for the answer.');
  gone.abort(reason);
  expect(await ends).toMatchObject([{ reason: { code: 'storage_unavailable' } }, { reason }]);
  expect([atWork.file.fd, waiting.file.fd]).toEqual([-1, -1]);
  expect(await bytesOf(gateway, 'api_keys')).toEqual([]);
});

it('begins nothing once it is closed', async () => {
  const { vault, threads } = await start(20);
  const spool = await spoolOf(await takeSnapshot(vault));
  await threads.close();
  const reason = { code: 'storage_unavailable', message: 'The vault is stopping.' };
  await expect(threads.take()).rejects.toMatchObject(reason);
  await expect(threads.restore(actor, spool, 'merge')).rejects.toMatchObject(reason);
  expect(spool.file.fd).toBe(-1);
});

it('ends at its next row when it is closed, with nothing written', async () => {
  const { vault, gateway, threads } = await start(20_000);
  const snapshot = await takeSnapshot(vault);
  await gateway.run('DELETE FROM api_keys WHERE rowid % 2 = 0');
  const damaged = await bytesOf(gateway, 'api_keys');
  const spool = await spoolOf(snapshot);
  const ends = Promise.allSettled([threads.take(), threads.restore(actor, spool, 'merge')]);
  await sleep(100);
  await threads.close();
  const reason = { code: 'storage_unavailable', message: 'The vault is stopping.' };
  expect(await ends).toMatchObject([{ reason }, { reason }]);
  expect(await bytesOf(gateway, 'api_keys')).toEqual(damaged);
});
