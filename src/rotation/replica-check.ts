/** Stops a rotation before it writes anything that a live replica could not read. */

import { labelOfKey } from '../crypto/master-key.ts';
import { ReplicaMissingKeyError } from '../errors.ts';
import type { Statement } from '../store/guards.ts';
import { type Replica, type ReplicaStore, replicaKeysStatement } from '../store/replicas.ts';
import type { RotationPlan } from './plan.ts';

/** Throws ReplicaMissingKeyError, unless the rotation is forced. */
export async function assertReplicasHoldKeys(replicas: ReplicaStore, plan: RotationPlan): Promise<void> {
  const error = plan.isForced ? null : missingKeyError(await replicas.live(), plan);
  if (error !== null) throw error;
}

/** The same as a condition of the batch that switches, for a replica that has started since. */
export function replicasHoldKeysStatements(plan: RotationPlan): Statement[] {
  return plan.isForced ? [] : [replicaKeysStatement(neededKeyIds(plan))];
}

/** The keys that open every row at any moment. */
function neededKeyIds({ from, to, isRerun }: RotationPlan): string[] {
  return [to.id, ...(from === null || isRerun ? [] : [from.id])];
}

function missingKeyError(replicas: readonly Replica[], plan: RotationPlan): ReplicaMissingKeyError | null {
  const lacking = replicas.flatMap(({ id, host, keyIds }) => {
    const missing = neededKeyIds(plan).filter((keyId) => !keyIds.includes(keyId));
    return missing.length === 0 ? [] : [{ replica: id, host, missing_key_ids: missing }];
  });
  if (lacking.length === 0) return null;
  const labelOf = (keyId: string): string =>
    labelOfKey(
      keyId,
      [plan.from, plan.to].some((key) => key?.id === keyId && key.isPassphrase),
    );
  const names = lacking.map((each) => `${each.host} (${each.replica}) lacks ${each.missing_key_ids.map(labelOf).join(' and ')}`);
  return new ReplicaMissingKeyError(
    `A live replica could not read what the rotation writes: ${names.join('; ')}. ` +
      'Deploy it with both keys, or wait 15 seconds if it is gone.',
    { replicas: lacking },
  );
}
