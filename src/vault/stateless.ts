/** Encrypts, decrypts and rewraps text that the caller keeps: nothing of it is stored, and each call is on record before it is answered. */

import type { Actor } from '../audit/event.ts';
import type { AuditLog } from '../audit/log.ts';
import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import type { RowCiphertext } from '../crypto/row.ts';
import { openText, parseText, sealText } from '../crypto/text-ciphertext.ts';
import { ConfigurationError, DecryptFailedError, VaultError } from '../errors.ts';
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

/** How many items each key of these ids has opened. */
type KeyUses = Map<string, number>;

interface OpenedText {
  readonly keyId: string;
  readonly plaintext: Buffer;
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

  /**
   * Answers in the order of the items. Throws ConfigurationError where the active key is not in the keyring, ValidationError
   * for over 64 KiB, AuditUnavailableError where the use could not be put on record.
   */
  async encrypt(actor: Actor, items: readonly TextInput[]): Promise<(EncryptedText | ItemError)[]> {
    const key = await this.#activeKey.sealingKey();
    return this.#recorded(actor, 'text.encrypt', items, ({ plaintext, context }) => {
      assertPlaintext('plaintext', plaintext);
      return this.#seal(key, Buffer.from(plaintext, 'utf8'), context);
    });
  }

  /** Answers in the order of the items, one that does not open with why. Throws AuditUnavailableError. */
  async decrypt(actor: Actor, items: readonly CiphertextInput[]): Promise<(DecryptedText | ItemError)[]> {
    return this.#recorded(actor, 'text.decrypt', items, (item, uses) => {
      const opened = this.#open(item, uses);
      if (opened === null) return this.#whyUnopened(item);
      const text = opened.plaintext.toString('utf8');
      opened.plaintext.fill(0);
      return { plaintext: text, keyId: opened.keyId };
    });
  }

  /**
   * The same plaintexts under the active key, each with its context. Answers as {@link decrypt} does, and throws as
   * {@link encrypt} does.
   */
  async rewrap(actor: Actor, items: readonly CiphertextInput[]): Promise<(EncryptedText | ItemError)[]> {
    const key = await this.#activeKey.sealingKey();
    return this.#recorded(actor, 'text.rewrap', items, (item, uses) => {
      const opened = this.#open(item, uses);
      if (opened === null) return this.#whyUnopened(item);
      return this.#seal(key, opened.plaintext, 'ciphertext' in item ? item.context : null);
    });
  }

  /** A step is a promise only where it has to ask the database: a thousand of them are not worth a thousand turns. */
  async #recorded<Item, Result extends { readonly keyId: string }>(
    actor: Actor,
    act: string,
    items: readonly Item[],
    take: (item: Item, uses: KeyUses) => Result | Promise<ItemError>,
  ): Promise<(Result | ItemError)[]> {
    const results: (Result | ItemError)[] = [];
    const failed: ItemError[] = [];
    const keyIds = new Set<string>();
    const uses: KeyUses = new Map();
    for (const item of items) {
      const step = take(item, uses);
      const result = step instanceof Promise ? await step : step;
      results.push(result);
      if (isItemError(result)) failed.push(result);
      else keyIds.add(result.keyId);
    }
    for (const [keyId, opened] of uses) this.#noteOpened(keyId, opened);
    const outcome = failed.length === results.length ? (failed[0]?.code ?? 'done') : 'done';
    const details = { items: results.length, failed: failed.length, key_ids: [...keyIds] };
    await this.#context.log.record(actor, [{ act, outcome, details }]);
    return results;
  }

  #seal(key: MasterKey, plaintext: Buffer, context: string | null): EncryptedText {
    const ciphertext = sealText(key, plaintext, context);
    plaintext.fill(0);
    this.#context.seals.note(key.id);
    this.#noteUse(key.id);
    return { ciphertext, keyId: key.id };
  }

  #open(input: CiphertextInput, uses: KeyUses): OpenedText | null {
    const opened = 'row' in input ? this.#openRow(input.row) : this.#openText(input.ciphertext, input.context);
    if (opened !== null) uses.set(opened.keyId, (uses.get(opened.keyId) ?? 0) + 1);
    return opened;
  }

  #noteOpened(keyId: string, opened: number): void {
    this.#context.observer.decrypted(keyId, 'opened', opened);
    this.#noteUse(keyId);
  }

  /** A key that is missing is said, anything else is one error. */
  async #whyUnopened(input: CiphertextInput): Promise<ItemError> {
    const namedKeyId = 'row' in input ? null : (parseText(input.ciphertext)?.keyId ?? null);
    try {
      if ('row' in input || namedKeyId !== null) await this.#activeKey.assertKeyPresent(namedKeyId);
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      this.#context.observer.decrypted(namedKeyId, 'key_missing');
      return error;
    }
    this.#context.observer.decrypted(namedKeyId, 'failed');
    return new DecryptFailedError();
  }

  #noteUse(keyId: string): void {
    const notedAt = this.#notedAt.get(keyId) ?? null;
    if (this.#context.uses.note(keyId, notedAt)) this.#notedAt.set(keyId, Math.floor(Date.now() / 1000));
  }

  #openText(text: string, context: string | null): OpenedText | null {
    const parsed = parseText(text);
    const key = parsed === null ? undefined : this.#keyring.get(parsed.keyId);
    if (parsed === null || key === undefined) return null;
    const plaintext = openText(key, parsed, context);
    return plaintext === null ? null : { keyId: key.id, plaintext };
  }

  #openRow(row: RowCiphertext): OpenedText | null {
    const opened = this.#keyring.openRow(null, row, null);
    return opened === null ? null : { keyId: opened.key.id, plaintext: opened.plaintext };
  }
}

export function isItemError(result: object): result is ItemError {
  return result instanceof VaultError;
}
