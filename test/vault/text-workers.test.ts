/** Many texts at once are worked on by a thread, and it is as if none were there: also where it dies. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Keyring } from '../../src/crypto/keyring.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { sealText } from '../../src/crypto/text-ciphertext.ts';
import { StorageUnavailableError } from '../../src/errors.ts';
import { Thread } from '../../src/runtime/thread.ts';
import type { CiphertextInput, TextResults } from '../../src/vault/text-work.ts';
import { TextThread, type TextWorkers, workOnTextsHere } from '../../src/vault/text-workers.ts';
import { gatewaySeal } from '../support/gateway.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, temporaryFolder } from '../support/vault.ts';

const entry = new URL('../../dist/threads/text-thread.js', import.meta.url);
const given = [keyA, keyB].map((key, index) => ({ source: `KEY_${index}`, key: parseMasterKey(key) }));
const keyring = new Keyring(given);
const foreign = parseMasterKey(keyC);

function textOf(index: number): string {
  return `sample-${index}-ü`;
}

/** Of either key, in text form with and without a context and as a row; every eighth opens with none. */
const mixed: CiphertextInput[] = Array.from({ length: 400 }, (_, index) => {
  const plaintext = Buffer.from(textOf(index));
  const key = given[index % 2]?.key ?? foreign;
  if (index % 8 === 0) return { ciphertext: sealText(foreign, plaintext, null), context: null };
  if (index % 8 === 1) return { ciphertext: sealText(key, plaintext, 'sample-context'), context: 'sample-context' };
  if (index % 8 === 2) {
    const { encrypted_value, iv, auth_tag } = gatewaySeal(keyA, textOf(index));
    return { row: { encryptedValue: encrypted_value, iv, authTag: auth_tag } };
  }
  return { ciphertext: sealText(key, plaintext, null), context: null };
});

function fail(error: unknown): never {
  throw error;
}

async function decrypted(workers: TextWorkers, items: readonly CiphertextInput[]) {
  const { texts, opened } = await workers.work({ act: 'decrypt', items });
  return { texts, opened };
}

describe('a thread', () => {
  it('opens what this thread opens, and leaves shut what this thread does', async () => {
    const workers = new TextThread(entry, keyring, fail);
    const results = await decrypted(workers, mixed);
    expect(results).toEqual(await decrypted(workOnTextsHere(keyring), mixed));
    expect(results.texts.map((text) => text?.text ?? null)).toEqual(
      mixed.map((_, index) => (index % 8 === 0 ? null : textOf(index))),
    );
    expect([...results.opened.keys()].toSorted()).toEqual([keyIdA, keyIdB].toSorted());
    await workers.close();
  });

  it('seals and rewraps under the key that it is told, each with its context', async () => {
    const workers = new TextThread(entry, keyring, fail);
    const items = Array.from({ length: 200 }, (_, index) => ({
      plaintext: textOf(index),
      context: index % 2 === 0 ? null : 'c',
    }));
    const sealed = await workers.work({ act: 'encrypt', keyId: keyIdA, items });
    const toOpen = sealed.texts.map((text, index) => ({ ciphertext: text?.text ?? '', context: items[index]?.context ?? null }));
    const rewrapped = await workers.work({ act: 'rewrap', keyId: keyIdB, items: toOpen });
    expect([sealed, rewrapped].map(({ opened }) => opened)).toEqual([new Map(), new Map([[keyIdA, 200]])]);
    const again = rewrapped.texts.map((text, index) => ({
      ciphertext: text?.text ?? '',
      context: items[index]?.context ?? null,
    }));
    const { texts, opened } = await decrypted(workers, again);
    expect(texts.map((text) => text?.text)).toEqual(items.map(({ plaintext }) => plaintext));
    expect(opened).toEqual(new Map([[keyIdB, 200]]));
    await workers.close();
  });

  it('is started by the first task of many texts, and by none of few', async () => {
    const { url, starts } = counting('setInterval(() => undefined, 1_000)');
    const workers = new TextThread(url, keyring, () => undefined);
    expect((await decrypted(workers, mixed.slice(0, 50))).texts[1]?.text).toBe(textOf(1));
    expect(starts()).toBe(0);
    const task = decrypted(workers, mixed);
    await expect.poll(starts).toBe(1);
    // It says nothing: what it was asked is done without it once it is closed.
    await workers.close();
    expect((await task).texts[1]?.text).toBe(textOf(1));
  });

  it('is started by few long texts too', async () => {
    const { url, starts } = counting('setInterval(() => undefined, 1_000)');
    const workers = new TextThread(url, keyring, () => undefined);
    const item = { plaintext: 'sample', context: 'x'.repeat(600_000) };
    const task = workers.work({ act: 'encrypt', keyId: keyIdA, items: [item] });
    await expect.poll(starts).toBe(1);
    await workers.close();
    await task;
  });

  it('that is asked what cannot be copied refuses that alone', async () => {
    const workerData = { keys: given };
    const thread = new Thread<unknown, TextResults>(entry, { workerData });
    const uncopyable = thread.request({ act: 'decrypt', items: [() => undefined] });
    const task = thread.request({ act: 'decrypt', items: mixed });
    await expect(uncopyable).rejects.toThrow('could not be cloned');
    expect((await task).texts.length).toBe(mixed.length);
    await thread.close();
  });

  it('is believed by the number of the request, not by the order of its answers', async () => {
    const { url } = counting(`import { parentPort } from 'node:worker_threads'; const asked = [];
      parentPort.on('message', ({ number, request }) => { asked.unshift({ number, outcome: { kind: 'done', response: request } });
        if (asked.length === 3) for (const each of asked) parentPort.postMessage(each); })`);
    const thread = new Thread<string, string>(url, {});
    const requests = ['first', 'second', 'third'];
    expect(await Promise.all(requests.map((request) => thread.request(request)))).toEqual(requests);
    await thread.close();
  });

  it('has so much before it and no more: what would only fill memory is refused', async () => {
    const { url } = counting('setInterval(() => undefined, 1_000)');
    const workers = new TextThread(url, keyring, () => undefined);
    // Half of it in what it is bound to.
    const items = Array.from({ length: 400 }, () => ({ plaintext: 'x'.repeat(25_000), context: 'y'.repeat(25_000) }));
    const waiting = workers.work({ act: 'encrypt', keyId: keyIdA, items });
    await expect(workers.work({ act: 'encrypt', keyId: keyIdA, items })).rejects.toMatchObject(
      new StorageUnavailableError('The vault is overloaded: nothing was done, try again.'),
    );
    await workers.close();
    expect((await waiting).texts.length).toBe(items.length);
    const later = workers.work({ act: 'encrypt', keyId: keyIdA, items });
    await workers.close();
    expect((await later).texts.length).toBe(items.length);
  });

  it('that dies with much before it is told of once, and all of that is answered', async () => {
    const { url } = counting('setTimeout(() => process.exit(1), 200)');
    const deaths: unknown[] = [];
    const workers = new TextThread(url, keyring, (error) => deaths.push(error));
    const results = await Promise.all([decrypted(workers, mixed), decrypted(workers, mixed), decrypted(workers, mixed)]);
    expect(results.map(({ texts }) => texts[1]?.text)).toEqual([textOf(1), textOf(1), textOf(1)]);
    expect(deaths.length).toBe(1);
    await workers.close();
  });

  it('that dies costs no answer, and the next task has another', async () => {
    for (const code of ['process.exit(1)', 'throw new Error("sample")']) {
      const { url, starts } = counting(code);
      const deaths: unknown[] = [];
      const workers = new TextThread(url, keyring, (error) => deaths.push(error));
      for (let task = 1; task <= 2; task += 1) {
        expect((await decrypted(workers, mixed)).texts[1]?.text).toBe(textOf(1));
        expect([starts(), deaths.length]).toEqual([task, task]);
      }
      await workers.close();
    }
  });
});

/** A thread's entry that notes each of its starts and then runs `code`. */
function counting(code: string) {
  const folder = temporaryFolder();
  const [notes, file] = [join(folder, 'starts'), join(folder, 'entry.mjs')];
  writeFileSync(notes, '');
  writeFileSync(file, `import { appendFileSync } from 'node:fs'; appendFileSync(${JSON.stringify(notes)}, '.'); ${code};`);
  return { url: pathToFileURL(file), starts: () => readFileSync(notes, 'utf8').length };
}
