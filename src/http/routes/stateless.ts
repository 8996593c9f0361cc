/** `/v1/encrypt`, `/v1/decrypt` and `/v1/rewrap`: one item or a batch, of which one that fails does not hide the others. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import * as schemas from '../../contract/schemas.ts';
import { ConfigurationError, DecryptFailedError } from '../../errors.ts';
import type { CiphertextInput, DecryptedText, EncryptedText, StatelessCipher } from '../../vault/stateless.ts';
import type { Brakes } from '../brakes.ts';
import { type ErrorAnswer, toErrorAnswer } from '../errors.ts';

const tags = ['Text that the caller keeps'];

export function statelessRoutes(stateless: StatelessCipher, brakes: Brakes): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post('/encrypt', {
      schema: {
        operationId: 'encrypt',
        summary: 'Encrypt text, or a batch of texts, under the active key',
        tags,
        body: schemas.EncryptBody,
        response: { 200: schemas.EncryptAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ body }) => {
        await stateless.assertCanSeal();
        return forEach(body, async ({ plaintext, context }) =>
          presentEncrypted(await stateless.encrypt(plaintext, context ?? null)),
        );
      },
    });

    app.post('/decrypt', {
      schema: {
        operationId: 'decrypt',
        summary: 'Decrypt a ciphertext, the columns of a format-1 row, or a batch of either',
        tags,
        body: schemas.CiphertextBody,
        response: { 200: schemas.DecryptAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const { body } = request;
        await brakes.countDecrypts(request, 'items' in body ? body.items.length : 1);
        return forEach(body, async (item) => presentDecrypted(await stateless.decrypt(toInput(item))));
      },
    });

    app.post('/rewrap', {
      schema: {
        operationId: 'rewrap',
        summary: 'Encrypt what a ciphertext holds anew under the active key, without showing it',
        tags,
        body: schemas.CiphertextBody,
        response: { 200: schemas.EncryptAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ body }) => {
        await stateless.assertCanSeal();
        return forEach(body, async (item) => presentEncrypted(await stateless.rewrap(toInput(item))));
      },
    });
  };
}

/** Answers one item with its result, and `{items}` with `{items, failed}` in the same order. Only what is wrong with one item is its own. */
async function forEach<Item extends object, Result>(
  body: Item | { items: Item[] },
  answer: (item: Item) => Promise<Result>,
): Promise<Result | { items: (Result | { error: ErrorAnswer })[]; failed: number }> {
  if (!('items' in body)) return answer(body);
  let failed = 0;
  const items: (Result | { error: ErrorAnswer })[] = [];
  for (const item of body.items) {
    try {
      items.push(await answer(item));
    } catch (error) {
      if (!(error instanceof DecryptFailedError || error instanceof ConfigurationError)) throw error;
      failed += 1;
      items.push({ error: toErrorAnswer(error) });
    }
  }
  return { items, failed };
}

function toInput(item: schemas.CiphertextItem): CiphertextInput {
  if ('ciphertext' in item) return { ciphertext: item.ciphertext, context: item.context ?? null };
  return { row: { encryptedValue: item.encrypted_value, iv: item.iv, authTag: item.auth_tag } };
}

function presentEncrypted({ ciphertext, keyId }: EncryptedText) {
  return { ciphertext, key_id: keyId };
}

function presentDecrypted({ plaintext, keyId }: DecryptedText) {
  return { plaintext, key_id: keyId };
}
