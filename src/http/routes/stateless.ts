/** `/v1/encrypt`, `/v1/decrypt` and `/v1/rewrap`: one item or a batch, in which a failed item does not hide the others. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import * as schemas from '../../contract/schemas.ts';
import type { ErrorAnswer } from '../../errors.ts';
import { type ItemError, isItemError, type StatelessCipher } from '../../vault/stateless.ts';
import type { CiphertextInput, WorkedText } from '../../vault/text-work.ts';
import { actorOf } from '../auth.ts';
import type { RateLimits } from '../rate-limits.ts';

const tags = ['Text that the caller keeps'];

export function statelessRoutes(stateless: StatelessCipher, rateLimits: RateLimits): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post('/encrypt', {
      schema: {
        operationId: 'encrypt',
        summary: 'Encrypt text, or a batch of texts, under the active key',
        tags,
        body: schemas.EncryptBody,
        response: { 200: schemas.EncryptAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const toInput = ({ plaintext, context }: schemas.EncryptItem) => ({ plaintext, context: context ?? null });
        return answer(request.body, toInput, (items) => stateless.encrypt(actorOf(request), items), presentEncrypted);
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
        await rateLimits.countDecrypts(request, 'items' in body ? body.items.length : 1);
        return answer(body, toInput, (items) => stateless.decrypt(actorOf(request), items), presentDecrypted);
      },
    });

    app.post('/rewrap', {
      schema: {
        operationId: 'rewrap',
        summary: 'Encrypt the content of a ciphertext again under the active key, without showing it',
        tags,
        body: schemas.CiphertextBody,
        response: { 200: schemas.EncryptAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) =>
        answer(request.body, toInput, (items) => stateless.rewrap(actorOf(request), items), presentEncrypted),
    });
  };
}

/**
 * Answers one item with its result, and `{items}` with `{items, failed}` in the same order. In a batch, an error of one item is
 * returned in its place; any other fails the call.
 */
async function answer<Item extends object, Input, Result extends object, Presented extends object>(
  body: Item | { items: Item[] },
  toItem: (item: Item) => Input,
  work: (items: Input[]) => Promise<(Result | ItemError)[]>,
  present: (result: Result) => Presented,
): Promise<Presented | { items: (Presented | { error: ErrorAnswer })[]; failed: number }> {
  const isBatch = 'items' in body;
  const results = await work((isBatch ? body.items : [body]).map(toItem));
  const items = results.map((result) => {
    if (!isItemError(result)) return present(result);
    if (!isBatch) throw result;
    return { error: result.toAnswer() };
  });
  if (isBatch) return { items, failed: results.filter(isItemError).length };
  return items[0] as Presented;
}

function toInput(item: schemas.CiphertextItem): CiphertextInput {
  if ('ciphertext' in item) return { ciphertext: item.ciphertext, context: item.context ?? null };
  return { row: { encryptedValue: item.encrypted_value, iv: item.iv, authTag: item.auth_tag } };
}

function presentEncrypted({ text, keyId }: WorkedText) {
  return { ciphertext: text, key_id: keyId };
}

function presentDecrypted({ text, keyId }: WorkedText) {
  return { plaintext: text, key_id: keyId };
}
