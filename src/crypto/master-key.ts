/**
 * A master key never leaves this object in readable form: other code names it by its key id, and encrypts or derives through its
 * KeyObject.
 */

import { createHash, createHmac, createSecretKey, type KeyObject, randomBytes } from 'node:crypto';

const hexKey = /^[0-9a-fA-F]{64}$/;
const keyIdLabel = 'provara-vault key id';
const keyIdLength = 16;
const snapshotLabel = 'provara-vault snapshot';
const auditLabel = 'provara-vault audit';

export interface MasterKey {
  /** 16 lowercase hex characters, as {@link keyIdOf} derives them. */
  readonly id: string;
  readonly secret: KeyObject;
  /** True if the key was given as any text other than 64 hex characters: its id then helps to guess it. */
  readonly isPassphrase: boolean;
}

/** The name of a key in logs, metrics and messages: the id of a passphrase would help to guess it. */
export function labelOfKey(keyId: string, isPassphrase: boolean): string {
  return isPassphrase ? 'passphrase' : keyId;
}

/** Reads a master key as the gateway does: 64 hex characters are the 32 bytes, any other text is hashed to them with SHA-256. */
export function parseMasterKey(text: string): MasterKey {
  const isPassphrase = !hexKey.test(text);
  const bytes = isPassphrase ? createHash('sha256').update(text, 'utf8').digest() : Buffer.from(text, 'hex');
  const key = { id: keyIdOf(bytes), secret: createSecretKey(bytes), isPassphrase };
  bytes.fill(0);
  return key;
}

/** A fresh master key as 64 lowercase hex characters. */
export function generateMasterKeyText(): string {
  return randomBytes(32).toString('hex');
}

/** The subkey that authenticates snapshots; it opens nothing. */
export function snapshotKeyOf(key: MasterKey): KeyObject {
  return subkeyOf(key, snapshotLabel);
}

/** The subkey that authenticates audit records; it opens nothing. */
export function auditKeyOf(key: MasterKey): KeyObject {
  return subkeyOf(key, auditLabel);
}

function subkeyOf({ secret }: MasterKey, label: string): KeyObject {
  return createSecretKey(createHmac('sha256', secret).update(label).digest());
}

function keyIdOf(bytes: Buffer): string {
  return createHmac('sha256', bytes).update(keyIdLabel).digest('hex').slice(0, keyIdLength);
}
