/**
 * Encrypts, decrypts and rewraps text that the caller keeps: none of it is stored, and each call is recorded before it is
 * answered.
 */

import type { Actor } from '../audit/event.ts';
import type { AuditLog } from '../audit/log.ts';
import type { Keyring } from '../crypto/keyring.ts';
import { parseText } from '../crypto/text-ciphertext.ts';
import { ConfigurationError, DecryptFailedError, VaultError } from '../errors.ts';
import type { ActiveKey } from '../keys/active-key.ts';
import type { SealMeter } from '../keys/seal-meter.ts';
import type { VaultObserver } from './observer.ts';
import type { CiphertextInput, PlaintextInput, TextResults, WorkedText } from './text-work.ts';
import type { TextWorkers } from './text-workers.ts';
import type { UseRecorder } from './use-recorder.ts';
import { assertPlaintext } from './values.ts';

/** An error that concerns one item alone. */
export type ItemError = DecryptFailedError | ConfigurationError;

export interface StatelessContext {
  readonly workers: TextWorkers;
  readonly keyring: Keyring;
  readonly activeKey: ActiveKey;
  readonly uses: UseRecorder;
  readonly log: AuditLog;
  readonly seals: SealMeter;
  readonly observer: VaultObserver;
}

export class StatelessCipher {
  readonly #context: StatelessContext;
  /** When a use of each key was last noted, in Unix seconds. */
  readonly #notedAt = new Map<string, number>();

  constructor(context: StatelessContext) {
    this.#context = context;
  }

  /**
   * Results in the order of the items. Throws ConfigurationError if the active key is not in the keyring, ValidationError for a
   * text over 64 KiB, and StorageUnavailableError if the use could not be recorded, in the audit or as the key's first.
   */
  async encrypt(actor: Actor, items: readonly PlaintextInput[]): Promise<(WorkedText | ItemError)[]> {
    const { id: keyId } = await this.#context.activeKey.sealingKey();
    for (const { plaintext } of items) assertPlaintext('plaintext', plaintext);
    const results = await this.#context.workers.work({ act: 'encrypt', keyId, items });
    await this.#noteSealed(keyId, results);
    return this.#recorded(actor, 'text.encrypt', results.texts.map(assertSealed));
  }

  /**
   * Results in the order of the items, each a plaintext or the error that kept it from opening. Throws StorageUnavailableError.
   */
  async decrypt(actor: Actor, items: readonly CiphertextInput[]): Promise<(WorkedText | ItemError)[]> {
    const results = await this.#context.workers.work({ act: 'decrypt', items });
    return this.#opened(actor, 'text.decrypt', items, results);
  }

  /**
   * Seals the same plaintexts under the active key, each with its context. Results as in {@link decrypt}, errors as in {@link
   * encrypt}.
   */
  async rewrap(actor: Actor, items: readonly CiphertextInput[]): Promise<(WorkedText | ItemError)[]> {
    const { id: keyId } = await this.#context.activeKey.sealingKey();
    const results = await this.#context.workers.work({ act: 'rewrap', keyId, items });
    await this.#noteSealed(keyId, results);
    return this.#opened(actor, 'text.rewrap', items, results);
  }

  async #recorded(actor: Actor, act: string, results: (WorkedText | ItemError)[]): Promise<(WorkedText | ItemError)[]> {
    const { keyring, log } = this.#context;
    const failed = results.filter(isItemError);
    const keyIds = new Set(results.flatMap((result) => (isItemError(result) ? [] : [result.keyId])));
    const outcome = failed.length === results.length ? (failed[0]?.code ?? 'done') : 'done';
    const details = { items: results.length, failed: failed.length, key_ids: [...keyIds].map((keyId) => keyring.labelOf(keyId)) };
    await log.record(actor, [{ act, outcome, details }]);
    return results;
  }

  /** Adds the error for each item that did not open. Keys count as used only after the call is recorded. */
  async #opened(actor: Actor, act: string, items: readonly CiphertextInput[], { texts, opened }: TextResults) {
    const results: (WorkedText | ItemError)[] = [];
    for (const [index, item] of items.entries()) results.push(texts[index] ?? (await this.#whyUnopened(item)));
    await this.#recorded(actor, act, results);
    for (const [keyId, count] of opened) {
      this.#context.observer.decrypted(keyId, 'opened', count);
      this.#noteUse(keyId);
    }
    return results;
  }

  /** The first use of a key is recorded before any ciphertext under it is released: a key that appears unused may be retired. */
  async #noteSealed(keyId: string, { texts }: TextResults): Promise<void> {
    const { seals, uses } = this.#context;
    const sealed = texts.filter((text) => text !== null).length;
    if (sealed === 0) return;
    seals.note(keyId, sealed);
    if (this.#notedAt.has(keyId)) this.#noteUse(keyId);
    else {
      await uses.record(keyId);
      this.#notedAt.set(keyId, Math.floor(Date.now() / 1000));
    }
  }

  /** Names a missing key; every other cause is the same error. */
  async #whyUnopened(input: CiphertextInput): Promise<ItemError> {
    const namedKeyId = 'row' in input ? null : (parseText(input.ciphertext)?.keyId ?? null);
    const isParsed = 'row' in input || namedKeyId !== null;
    const why = isParsed ? await this.#context.activeKey.whyUnopened(namedKeyId) : new DecryptFailedError();
    this.#context.observer.decrypted(namedKeyId, why instanceof ConfigurationError ? 'key_missing' : 'failed');
    return why;
  }

  #noteUse(keyId: string): void {
    const notedAt = this.#notedAt.get(keyId) ?? null;
    if (this.#context.uses.note(keyId, notedAt)) this.#notedAt.set(keyId, Math.floor(Date.now() / 1000));
  }
}

/** Sealing never fails for a single item. */
function assertSealed(text: WorkedText | null): WorkedText {
  if (text === null) throw new Error('A text was not sealed.');
  return text;
}

export function isItemError(result: object): result is ItemError {
  return result instanceof VaultError;
}
