/** Encrypts, decrypts and rewraps text that the caller keeps: nothing of it is stored. */

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

export interface EncryptedText {
  readonly ciphertext: string;
  readonly keyId: string;
}

export interface DecryptedText {
  readonly plaintext: string;
  readonly keyId: string;
}

export class StatelessCipher {
  readonly #keyring: Keyring;
  readonly #activeKey: ActiveKey;
  readonly #uses: UseRecorder;
  readonly #seals: SealMeter;
  readonly #observer: VaultObserver;
  readonly #notedAt = new Map<string, number>();

  constructor(keyring: Keyring, activeKey: ActiveKey, uses: UseRecorder, seals: SealMeter, observer: VaultObserver) {
    this.#keyring = keyring;
    this.#activeKey = activeKey;
    this.#uses = uses;
    this.#seals = seals;
    this.#observer = observer;
  }

  /** Throws ConfigurationError where the active key is not in the keyring. */
  async assertCanSeal(): Promise<void> {
    await this.#activeKey.sealingKey();
  }

  /** Throws ConfigurationError where the active key is not in the keyring, ValidationError for over 64 KiB. */
  async encrypt(plaintext: string, context: string | null): Promise<EncryptedText> {
    assertPlaintext('plaintext', plaintext);
    return this.#seal(Buffer.from(plaintext, 'utf8'), context);
  }

  /** Throws DecryptFailedError, or ConfigurationError where only the key is missing. */
  async decrypt(input: CiphertextInput): Promise<DecryptedText> {
    const { keyId, plaintext } = await this.#open(input);
    const text = plaintext.toString('utf8');
    plaintext.fill(0);
    return { plaintext: text, keyId };
  }

  /** The same plaintext under the active key, with the same context. Throws as {@link decrypt} does. */
  async rewrap(input: CiphertextInput): Promise<EncryptedText> {
    const { plaintext } = await this.#open(input);
    return this.#seal(plaintext, 'ciphertext' in input ? input.context : null);
  }

  async #seal(plaintext: Buffer, context: string | null): Promise<EncryptedText> {
    const key = await this.#activeKey.sealingKey();
    const ciphertext = sealText(key, plaintext, context);
    plaintext.fill(0);
    this.#seals.note(key.id);
    this.#noteUse(key.id);
    return { ciphertext, keyId: key.id };
  }

  async #open(input: CiphertextInput): Promise<{ keyId: string; plaintext: Buffer }> {
    const opened = 'row' in input ? this.#openRow(input.row) : this.#openText(input.ciphertext, input.context);
    if (opened === null) {
      const namedKeyId = 'row' in input ? null : (parseText(input.ciphertext)?.keyId ?? null);
      if ('row' in input || namedKeyId !== null) await this.#assertKeyPresent(namedKeyId);
      this.#observer.decrypted(namedKeyId, 'failed');
      throw new DecryptFailedError();
    }
    this.#observer.decrypted(opened.keyId, 'opened');
    this.#noteUse(opened.keyId);
    return opened;
  }

  async #assertKeyPresent(namedKeyId: string | null): Promise<void> {
    try {
      await this.#activeKey.assertKeyPresent(namedKeyId);
    } catch (error) {
      if (error instanceof ConfigurationError) this.#observer.decrypted(namedKeyId, 'key_missing');
      throw error;
    }
  }

  #noteUse(keyId: string): void {
    const notedAt = this.#notedAt.get(keyId) ?? null;
    if (this.#uses.note(keyId, notedAt)) this.#notedAt.set(keyId, Math.floor(Date.now() / 1000));
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
