/** Encrypts, decrypts and rewraps text that the caller keeps: nothing of it is stored, and each call is on record before it is answered. */

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

/** What is wrong with one item alone. */
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
  /** By key, in Unix seconds. */
  readonly #notedAt = new Map<string, number>();

  constructor(context: StatelessContext) {
    this.#context = context;
  }

  /**
   * Answers in the order of the items. Throws ConfigurationError where the active key is not in the keyring, ValidationError
   * for over 64 KiB, StorageUnavailableError where the use could not be put on record, in the audit or as the key's first.
   */
  async encrypt(actor: Actor, items: readonly PlaintextInput[]): Promise<(WorkedText | ItemError)[]> {
    const { id: keyId } = await this.#context.activeKey.sealingKey();
    for (const { plaintext } of items) assertPlaintext('plaintext', plaintext);
    const results = await this.#context.workers.work({ act: 'encrypt', keyId, items });
    await this.#noteSealed(keyId, results);
    return this.#recorded(actor, 'text.encrypt', results.texts.map(assertSealed));
  }

  /** Answers in the order of the items, one that does not open with why. Throws StorageUnavailableError. */
  async decrypt(actor: Actor, items: readonly CiphertextInput[]): Promise<(WorkedText | ItemError)[]> {
    const results = await this.#context.workers.work({ act: 'decrypt', items });
    return this.#opened(actor, 'text.decrypt', items, results);
  }

  /**
   * The same plaintexts under the active key, each with its context. Answers as {@link decrypt} does, and throws as
   * {@link encrypt} does.
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

  /** Of each item that does not open, why. What opened counts as used once that is on record. */
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

  /** The first use of a key is on record before anybody has a ciphertext under it: one that seems never used may be retired. */
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

  /** A key that is missing is said, anything else is one error. */
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

/** Sealing fails for none alone. */
function assertSealed(text: WorkedText | null): WorkedText {
  if (text === null) throw new Error('A text was not sealed.');
  return text;
}

export function isItemError(result: object): result is ItemError {
  return result instanceof VaultError;
}
