/** Stops a rotation before it writes anything that a live replica could not read. */

import { labelOfKey, type MasterKey } from '../crypto/master-key.ts';
import { ReplicaMissingKeyError } from '../errors.ts';
import type { Statement } from '../store/guards.ts';
import { type Replica, type ReplicaStore, replicaKeysStatement } from '../store/replicas.ts';
import type { RotationPlan } from './plan.ts';

/** Throws ReplicaMissingKeyError, unless the rotation is forced. */
export async function assertReplicasHoldKeys(replicas: ReplicaStore, plan: RotationPlan): Promise<void> {
  const error = plan.isForced ? null : lackingReplicasError(await replicas.live(), plan);
  if (error !== null) throw error;
}

/** The same check as a condition of the batch that switches, for replicas that have started since. */
export function replicasHoldKeysStatements(plan: RotationPlan): Statement[] {
  return plan.isForced ? [] : [replicaKeysStatement(neededKeys(plan).map(({ id }) => id))];
}

/** The keys that together open every row at any moment of the rotation. */
function neededKeys({ from, to, isRerun }: RotationPlan): MasterKey[] {
  return from === null || isRerun ? [to] : [to, from];
}

function lackingReplicasError(replicas: readonly Replica[], plan: RotationPlan): ReplicaMissingKeyError | null {
  const lacking = replicas.flatMap(({ id, host, keyIds }) => {
    const missing = neededKeys(plan).filter((key) => !keyIds.includes(key.id));
    return missing.length === 0 ? [] : [{ replica: id, host, missing }];
  });
  if (lacking.length === 0) return null;
  const labelsOf = (keys: readonly MasterKey[]): string =>
    keys.map(({ id, isPassphrase }) => labelOfKey(id, isPassphrase)).join(' and ');
  const names = lacking.map(({ replica, host, missing }) => `${host} (${replica}) lacks ${labelsOf(missing)}`);
  return new ReplicaMissingKeyError(
    `A live replica could not read what the rotation writes: ${names.join('; ')}. ` +
      'Deploy it with both keys, or wait 15 seconds if it is gone.',
    { replicas: lacking.map(({ missing, ...each }) => ({ ...each, missing_key_ids: missing.map(({ id }) => id) })) },
  );
}
