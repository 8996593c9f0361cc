/** What the error that ended an attempt at a rotation means for the operator. */

import {
  ConfigurationError,
  errorWithCode,
  ReplicaMissingKeyError,
  RotationInProgressError,
  StorageUnavailableError,
  VaultError,
} from '../errors.ts';
import { brokenConstraint, isConstraint } from '../store/failures.ts';
import { GuardFailedError } from '../store/guards.ts';
import { activeKeyGuard } from '../store/master-keys.ts';
import { type ReplicaStore, replicaKeysGuard } from '../store/replicas.ts';
import type { RotationStore } from '../store/rotations.ts';
import { inProgressError } from './control.ts';
import type { RotationPlan } from './plan.ts';
import { assertReplicasHoldKeys } from './replica-check.ts';

interface FailureContext {
  readonly rotations: RotationStore;
  readonly replicas: ReplicaStore;
}

/**
 * Explains a broken guard of the rotation's own statements and a constraint of a covered table, and words any other error as
 * {@link afterSwitch} does.
 */
export async function explainFailure(
  { rotations, replicas }: FailureContext,
  plan: RotationPlan,
  isSwitched: boolean,
  error: unknown,
): Promise<unknown> {
  if (isConstraint(error)) return afterSwitch(refusedRowsError(brokenConstraint(error)), { isSwitched });
  if (!(error instanceof GuardFailedError)) return afterSwitch(error, { isSwitched });
  if (error.guard === activeKeyGuard) {
    return new RotationInProgressError(
      'Another key has become the active one since this rotation was planned: see GET /admin/master-keys before you run it again.',
    );
  }
  if (error.guard !== replicaKeysGuard) return inProgressError(rotations);
  return assertReplicasHoldKeys(replicas, plan).then(
    () => error,
    (reason: unknown) => reason,
  );
}

/** Errors that waiting, or running the same command again, resolves: they say so themselves, before and after the switch. */
const passingErrors = [StorageUnavailableError, RotationInProgressError, ReplicaMissingKeyError];

/**
 * The same error, or, if the rotation had switched the active key before, one that also says to keep both keys, in `details.switched`
 * too: "nothing was written" is then true of this attempt at most.
 */
export function afterSwitch(error: unknown, { isSwitched }: { readonly isSwitched: boolean }): unknown {
  if (!isSwitched || !(error instanceof VaultError) || passingErrors.some((passing) => error instanceof passing)) return error;
  const message = `${error.message} The active key had been switched before: keep both keys.`;
  return errorWithCode(error.code, message, { ...error.details, switched: true });
}

/** The vault's own tables accept all that a rotation records: what refuses it is another program's. */
function refusedRowsError(constraint: string | null): ConfigurationError {
  const which = constraint === null ? '' : ` (${constraint})`;
  return new ConfigurationError(
    `A constraint or a trigger in the database refuses what the rotation writes${which}: drop it, and run the rotation again.`,
  );
}
