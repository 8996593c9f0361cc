/** Opens and seals the texts that callers keep, with keys and nothing else, so that it can run on any thread. */

import type { Keyring } from '../crypto/keyring.ts';
import type { MasterKey } from '../crypto/master-key.ts';
import type { RowCiphertext } from '../crypto/row.ts';
import { openText, parseText, sealText } from '../crypto/text-ciphertext.ts';

/** A ciphertext in text form with the context it was sealed with, or the three columns of a format-1 row. */
export type CiphertextInput = { readonly ciphertext: string; readonly context: string | null } | { readonly row: RowCiphertext };

export interface PlaintextInput {
  readonly plaintext: string;
  readonly context: string | null;
}

/** `keyId` names the sealing key, which must be in the keyring. */
export type TextTask =
  | { readonly act: 'encrypt'; readonly keyId: string; readonly items: readonly PlaintextInput[] }
  | { readonly act: 'decrypt'; readonly items: readonly CiphertextInput[] }
  | { readonly act: 'rewrap'; readonly keyId: string; readonly items: readonly CiphertextInput[] };

/** A plaintext and the key that opened it, or a ciphertext and the key that sealed it. */
export interface WorkedText {
  readonly text: string;
  readonly keyId: string;
}

export interface TextResults {
  /** In the order of the items; null if an item does not open. */
  readonly texts: readonly (WorkedText | null)[];
  /** How many items each key has opened. */
  readonly opened: ReadonlyMap<string, number>;
}

interface OpenedText {
  readonly key: MasterKey;
  readonly plaintext: Buffer;
}

export class TextWork {
  readonly #keyring: Keyring;

  constructor(keyring: Keyring) {
    this.#keyring = keyring;
  }

  work(task: TextTask): TextResults {
    const opened = new Map<string, number>();
    const open = (item: CiphertextInput): OpenedText | null => {
      const found = 'row' in item ? this.#keyring.openRow(null, item.row, null) : this.#openText(item.ciphertext, item.context);
      if (found !== null) opened.set(found.key.id, (opened.get(found.key.id) ?? 0) + 1);
      return found;
    };
    return { texts: this.#texts(task, open), opened };
  }

  #texts(task: TextTask, open: (item: CiphertextInput) => OpenedText | null): (WorkedText | null)[] {
    if (task.act === 'decrypt') return task.items.map((item) => takeText(open(item)));
    const key = this.#keyring.get(task.keyId);
    if (key === undefined) throw new Error('The key that is to seal is not in the keyring.');
    if (task.act === 'encrypt')
      return task.items.map(({ plaintext, context }) => seal(key, Buffer.from(plaintext, 'utf8'), context));
    return task.items.map((item) => {
      const found = open(item);
      return found === null ? null : seal(key, found.plaintext, 'row' in item ? null : item.context);
    });
  }

  #openText(text: string, context: string | null): OpenedText | null {
    const parsed = parseText(text);
    const key = parsed === null ? undefined : this.#keyring.get(parsed.keyId);
    const plaintext = parsed === null || key === undefined ? null : openText(key, parsed, context);
    return key === undefined || plaintext === null ? null : { key, plaintext };
  }
}

function takeText(opened: OpenedText | null): WorkedText | null {
  if (opened === null) return null;
  const text = opened.plaintext.toString('utf8');
  opened.plaintext.fill(0);
  return { text, keyId: opened.key.id };
}

function seal(key: MasterKey, plaintext: Buffer, context: string | null): WorkedText {
  const text = sealText(key, plaintext, context);
  plaintext.fill(0);
  return { text, keyId: key.id };
}
