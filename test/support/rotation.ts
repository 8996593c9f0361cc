/** Puts a rotation on record as begun, with nobody at work on it. */

import { AuditChain } from '../../src/crypto/audit-chain.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import type { Lease, RotationStore } from '../../src/store/rotations.ts';
import { keyA, keyIdA, keyIdB } from './vault.ts';

/** From key A to key B. Answers the lease, or null where another owner holds it. */
export function beginRotation(rotations: RotationStore, owner: string, id = 'sample'): Promise<Lease | null> {
  const choices = { upgradeFormat: false, isForced: false, skippedRows: [], coveredTables: [], isRerun: false };
  const record = new AuditChain().append(parseMasterKey(keyA), {});
  return rotations.begin({ ...choices, id, fromKeyId: keyIdA, toKeyId: keyIdB }, owner, record);
}
