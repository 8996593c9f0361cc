/** Records a rotation as begun, without any process working on it. */

import { AuditChain } from '../../src/crypto/audit-chain.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import type { Lease, RotationStore } from '../../src/store/rotations.ts';
import { keyA, keyIdA, keyIdB } from './vault.ts';

/** Begins a rotation from key A to key B. Returns the lease, or null if another owner holds it. */
export function beginRotation(rotations: RotationStore, owner: string, id = 'sample'): Promise<Lease | null> {
  const choices = { upgradeFormat: false, isForced: false, skippedRows: [], coveredTables: [], isRerun: false };
  const record = new AuditChain().append(parseMasterKey(keyA), {});
  return rotations.begin({ ...choices, id, fromKeyId: keyIdA, toKeyId: keyIdB }, owner, record);
}
