/** Encrypts, decrypts and rewraps text that the caller keeps: nothing of it is stored, and each call is on record before it is answered. */

import type { Actor } from '../audit/event.ts';
import type { AuditLog } from '../audit/log.ts';
import type { Keyring } from '../crypto/keyring.ts';
import type { RowCiphertext } from '../crypto/row.ts';
import { openText, parseText, sealText } from '../crypto/text-ciphertext.ts';
import { ConfigurationError, DecryptFailedError } from '../errors.ts';
import type { ActiveKey } from '../keys/active-key.ts';
import type { SealMeter } from '../keys/seal-meter.ts';
import type { VaultObserver } from './observer.ts';
import type { UseRecorder } from './use-recorder.ts';
import { assertPlaintext } from './values.ts';

/** A ciphertext in text form with the context it was sealed with, or the three columns of a format-1 row. */
export type CiphertextInput = { readonly ciphertext: string; readonly context: string | null } | { readonly row: RowCiphertext };

export interface TextInput {
  readonly plaintext: string;
  readonly context: string | null;
}

/** What is wrong with one item alone. */
export type ItemError = DecryptFailedError | ConfigurationError;

export interface EncryptedText {
  readonly ciphertext: string;
  readonly keyId: string;
}

export interface DecryptedText {
  readonly plaintext: string;
  readonly keyId: string;
}

export interface StatelessContext {
  readonly keyring: Keyring;
  readonly activeKey: ActiveKey;
  readonly uses: UseRecorder;
  readonly log: AuditLog;
  readonly seals: SealMeter;
  readonly observer: VaultObserver;
}

export class StatelessCipher {
  readonly #context: StatelessContext;
  readonly #keyring: Keyring;
  readonly #activeKey: ActiveKey;
  readonly #notedAt = new Map<string, number>();

  constructor(context: StatelessContext) {
    this.#context = context;
    this.#keyring = context.keyring;
    this.#activeKey = context.activeKey;
  }

  /** Throws ConfigurationError where the active key is not in the keyring. */
  async assertCanSeal(): Promise<void> {
    await this.#activeKey.sealingKey();
  }

  /**
   * Answers in the order of the items. Throws ConfigurationError where the active key is not in the keyring, ValidationError
   * for over 64 KiB, AuditUnavailableError where the use could not be put on record.
   */
  async encrypt(actor: Actor, items: readonly TextInput[]): Promise<(EncryptedText | ItemError)[]> {
    return this.#recorded(actor, 'text.encrypt', items, async ({ plaintext, context }) => {
      assertPlaintext('plaintext', plaintext);
      return this.#seal(Buffer.from(plaintext, 'utf8'), context);
    });
  }

  /** Answers in the order of the items, one that does not open with why. Throws AuditUnavailableError. */
  async decrypt(actor: Actor, items: readonly CiphertextInput[]): Promise<(DecryptedText | ItemError)[]> {
    return this.#recorded(actor, 'text.decrypt', items, async (item) => {
      const { keyId, plaintext } = await this.#open(item);
      const text = plaintext.toString('utf8');
      plaintext.fill(0);
      return { plaintext: text, keyId };
    });
  }

  /** The same plaintexts under the active key, each with its context. Answers and throws as {@link decrypt} does. */
  async rewrap(actor: Actor, items: readonly CiphertextInput[]): Promise<(EncryptedText | ItemError)[]> {
    return this.#recorded(actor, 'text.rewrap', items, async (item) => {
      const { plaintext } = await this.#open(item);
      return this.#seal(plaintext, 'ciphertext' in item ? item.context : null);
    });
  }

  async #recorded<Item, Result extends { readonly keyId: string }>(
    actor: Actor,
    act: string,
    items: readonly Item[],
    step: (item: Item) => Promise<Result>,
  ): Promise<(Result | ItemError)[]> {
    const results: (Result | ItemError)[] = [];
    for (const item of items) results.push(await step(item).catch(asItemError));
    const failed = results.filter(isItemError);
    const keyIds = new Set(results.flatMap((result) => (isItemError(result) ? [] : [result.keyId])));
    const outcome = failed.length === results.length ? (failed[0]?.code ?? 'done') : 'done';
    const details = { items: results.length, failed: failed.length, key_ids: [...keyIds] };
    await this.#context.log.record(actor, [{ act, outcome, details }]);
    return results;
  }

  async #seal(plaintext: Buffer, context: string | null): Promise<EncryptedText> {
    const key = await this.#activeKey.sealingKey();
    const ciphertext = sealText(key, plaintext, context);
    plaintext.fill(0);
    this.#context.seals.note(key.id);
    this.#noteUse(key.id);
    return { ciphertext, keyId: key.id };
  }

  async #open(input: CiphertextInput): Promise<{ keyId: string; plaintext: Buffer }> {
    const opened = 'row' in input ? this.#openRow(input.row) : this.#openText(input.ciphertext, input.context);
    if (opened === null) {
      const namedKeyId = 'row' in input ? null : (parseText(input.ciphertext)?.keyId ?? null);
      if ('row' in input || namedKeyId !== null) await this.#assertKeyPresent(namedKeyId);
      this.#context.observer.decrypted(namedKeyId, 'failed');
      throw new DecryptFailedError();
    }
    this.#context.observer.decrypted(opened.keyId, 'opened');
    this.#noteUse(opened.keyId);
    return opened;
  }

  async #assertKeyPresent(namedKeyId: string | null): Promise<void> {
    try {
      await this.#activeKey.assertKeyPresent(namedKeyId);
    } catch (error) {
      if (error instanceof ConfigurationError) this.#context.observer.decrypted(namedKeyId, 'key_missing');
      throw error;
    }
  }

  #noteUse(keyId: string): void {
    const notedAt = this.#notedAt.get(keyId) ?? null;
    if (this.#context.uses.note(keyId, notedAt)) this.#notedAt.set(keyId, Math.floor(Date.now() / 1000));
  }

  #openText(text: string, context: string | null): { keyId: string; plaintext: Buffer } | null {
    const parsed = parseText(text);
    const key = parsed === null ? undefined : this.#keyring.get(parsed.keyId);
    if (parsed === null || key === undefined) return null;
    const plaintext = openText(key, parsed, context);
    return plaintext === null ? null : { keyId: key.id, plaintext };
  }

  #openRow(row: RowCiphertext): { keyId: string; plaintext: Buffer } | null {
    const opened = this.#keyring.openRow(null, row, null);
    return opened === null ? null : { keyId: opened.key.id, plaintext: opened.plaintext };
  }
}

export function isItemError(result: object): result is ItemError {
  return result instanceof DecryptFailedError || result instanceof ConfigurationError;
}

function asItemError(error: unknown): ItemError {
  if (error instanceof DecryptFailedError || error instanceof ConfigurationError) return error;
  throw error;
}
