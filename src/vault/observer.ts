/** What the vault reports to a metrics collector: nothing that a metric may not show. */

export type DecryptOutcome = 'opened' | 'failed' | 'key_missing';

export interface VaultObserver {
  /** A caller asked for a plaintext. `keyId` is the key that opened it, otherwise the one that the ciphertext names, or null. */
  readonly decrypted: (keyId: string | null, outcome: DecryptOutcome, plaintexts?: number) => void;
  /** A use of keys was refused because the audit log did not accept its record. */
  readonly auditFailed: () => void;
}

export const unobserved: VaultObserver = { decrypted: () => undefined, auditFailed: () => undefined };
