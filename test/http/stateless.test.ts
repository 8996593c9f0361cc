/** Text that the caller keeps: encrypted, decrypted and rewrapped, one by one and in batches. */

import { describe, expect, it } from 'vitest';
import { gatewaySeal } from '../support/gateway.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, temporaryDatabase } from '../support/vault.ts';

async function start(settings = {}) {
  const { url } = await temporaryDatabase();
  return startVault(url, settings);
}

describe('encrypt and decrypt', () => {
  it.each(['', 'sample text', 'ünïcode-鍵-🔑', 'a\u0000b', 'x'.repeat(65_536)])('give %j back', async (plaintext) => {
    const { gateway } = await start();
    const encrypted = await gateway('POST', '/v1/encrypt', { plaintext, context: 'sample context' });
    expect(encrypted.body.ciphertext).toMatch(new RegExp(`^pv1\\.${keyIdA}\\.[A-Za-z0-9_-]+$`));
    const decrypted = await gateway('POST', '/v1/decrypt', { ciphertext: encrypted.body.ciphertext, context: 'sample context' });
    expect(decrypted.body).toEqual({ plaintext, key_id: keyIdA });
  });

  it('bind the context: another one, none, or an empty one does not open', async () => {
    const { gateway } = await start();
    const { ciphertext } = (await gateway('POST', '/v1/encrypt', { plaintext: 'sample', context: 'one' })).body;
    for (const context of ['two', '', undefined]) {
      const { status, body } = await gateway('POST', '/v1/decrypt', { ciphertext, context });
      expect([status, body.error.type, body.error.message]).toEqual([
        422,
        'decrypt_failed',
        'The ciphertext could not be decrypted.',
      ]);
    }
  });

  it('open the three columns of a row that the gateway sealed, under any key of the keyring', async () => {
    const { gateway } = await start({ PROVARA_MASTER_KEY_OLD: keyB });
    const decrypted = await gateway('POST', '/v1/decrypt', gatewaySeal(keyB, 'sample-connector-credential'));
    expect(decrypted.body).toEqual({ plaintext: 'sample-connector-credential', key_id: keyIdB });
  });

  it('refuse everything that does not open with one and the same error', async () => {
    const { gateway } = await start();
    const { ciphertext } = (await gateway('POST', '/v1/encrypt', { plaintext: 'sample' })).body as { ciphertext: string };
    const row = gatewaySeal(keyA, 'sample');
    const bad: object[] = [
      { ciphertext: ciphertext.slice(0, -1) },
      { ciphertext: ciphertext.slice(0, 30) },
      { ciphertext: '' },
      { ciphertext: 'pv1' },
      { ciphertext: ciphertext.replace(keyIdA, '0'.repeat(16)) },
      { ciphertext: ciphertext.replace('pv1', 'pv2') },
      { ...row, auth_tag: row.auth_tag.slice(0, 8) },
      { ...row, iv: row.iv.slice(0, 24) },
      { ...row, encrypted_value: row.auth_tag, auth_tag: row.encrypted_value },
      gatewaySeal(keyB, 'sample'),
    ];
    for (const body of bad) {
      for (const path of ['/v1/decrypt', '/v1/rewrap']) {
        const answer = await gateway('POST', path, body);
        expect([answer.status, answer.body.error.message], JSON.stringify(body)).toEqual([
          422,
          'The ciphertext could not be decrypted.',
        ]);
      }
    }
  });

  it.each([
    ['columns that are not hex', { encrypted_value: 'zz', iv: '00', auth_tag: '00' }],
    ['an odd number of hex characters', { encrypted_value: '0', iv: '00', auth_tag: '00' }],
    ['a missing column', { encrypted_value: '00', iv: '00' }],
    ['columns and a ciphertext', { ciphertext: 'pv1', encrypted_value: '00', iv: '00', auth_tag: '00' }],
    ['an item and items', { ciphertext: 'pv1', items: [] }],
    ['a context with half a surrogate pair', { ciphertext: 'pv1', context: '\ud800' }],
    ['a context that is no text', { ciphertext: 'pv1', context: 1 }],
    ['one item of the wrong shape', { items: [{ ciphertext: 'pv1' }, { cipher: 'pv1' }] }],
    ['more than 1,000 items', { items: Array.from({ length: 1_001 }, () => ({ ciphertext: 'pv1' })) }],
    ['nothing', {}],
  ])('refuse %s with 400', async (_case, body) => {
    const { gateway } = await start();
    for (const path of ['/v1/decrypt', '/v1/rewrap']) {
      const answer = await gateway('POST', path, body);
      expect([answer.status, answer.body.error.type]).toEqual([400, 'validation_error']);
    }
  });

  it('refuse a plaintext over 64 KiB', async () => {
    const { gateway } = await start();
    expect((await gateway('POST', '/v1/encrypt', { plaintext: 'x'.repeat(65_537) })).status).toBe(400);
  });
});

describe('rewrap', () => {
  it('seals under the active key with the same context, and never answers the plaintext', async () => {
    const { gateway, admin } = await start({ PROVARA_MASTER_KEY_NEW: keyB });
    const before = await gateway('POST', '/v1/encrypt', { plaintext: 'sample-plaintext', context: 'c' });
    expect((await admin('POST', '/admin/rotate/execute')).status).toBe(200);
    const rewrapped = await gateway('POST', '/v1/rewrap', { ciphertext: before.body.ciphertext, context: 'c' });
    expect(rewrapped.body.key_id).toBe(keyIdB);
    expect(JSON.stringify(rewrapped.body)).not.toContain('sample-plaintext');
    const opened = await gateway('POST', '/v1/decrypt', { ciphertext: rewrapped.body.ciphertext, context: 'c' });
    expect(opened.body).toEqual({ plaintext: 'sample-plaintext', key_id: keyIdB });
  });

  it('turns the columns of a row into text', async () => {
    const { gateway } = await start();
    const rewrapped = await gateway('POST', '/v1/rewrap', gatewaySeal(keyA, 'sample'));
    expect((await gateway('POST', '/v1/decrypt', { ciphertext: rewrapped.body.ciphertext })).body.plaintext).toBe('sample');
  });
});

describe('batches', () => {
  it('answer every item in order, and count those that failed', async () => {
    const { gateway } = await start();
    const plaintexts = Array.from({ length: 1_000 }, (_, index) => `sample-${index}`);
    const encrypted = await gateway('POST', '/v1/encrypt', { items: plaintexts.map((plaintext) => ({ plaintext })) });
    expect([encrypted.body.items.length, encrypted.body.failed]).toEqual([1_000, 0]);
    const items = encrypted.body.items.map(({ ciphertext }: { ciphertext: string }) => ({ ciphertext }));
    items[7] = { ciphertext: 'pv1.broken' };
    items[9] = gatewaySeal(keyA, 'sample-row');
    const decrypted = await gateway('POST', '/v1/decrypt', { items });
    expect(decrypted.body.failed).toBe(1);
    expect(decrypted.body.items[7]).toEqual({
      error: { type: 'decrypt_failed', message: 'The ciphertext could not be decrypted.' },
    });
    expect(decrypted.body.items[9].plaintext).toBe('sample-row');
    expect(decrypted.body.items[999].plaintext).toBe('sample-999');
    expect((await gateway('POST', '/v1/rewrap', { items })).body.failed).toBe(1);
  });

  it('are refused whole where one plaintext is over 64 KiB', async () => {
    const { gateway } = await start();
    const items = [{ plaintext: 'sample' }, { plaintext: 'x'.repeat(65_537) }];
    expect((await gateway('POST', '/v1/encrypt', { items })).status).toBe(400);
  });

  it('may be of almost 8 MiB', async () => {
    const { gateway } = await start();
    const items = Array.from({ length: 127 }, () => ({ plaintext: 'x'.repeat(65_536) }));
    expect((await gateway('POST', '/v1/encrypt', { items })).body.failed).toBe(0);
  });

  it('may be empty', async () => {
    const { gateway } = await start();
    for (const path of ['/v1/encrypt', '/v1/decrypt', '/v1/rewrap']) {
      expect((await gateway('POST', path, { items: [] })).body).toEqual({ items: [], failed: 0 });
    }
  });
});
