/** What any process may do about a rotation, whichever process runs it: read its state, and cancel it before it switches. */

import type { Actor } from '../audit/event.ts';
import type { AuditJournal } from '../audit/journal.ts';
import { NotFoundError, RotationInProgressError } from '../errors.ts';
import type { RotationRecord } from '../store/rotation-record.ts';
import type { RotationStore } from '../store/rotations.ts';

/** Throws NotFoundError. */
export async function findRotation(rotations: RotationStore, id: string): Promise<RotationRecord> {
  const rotation = await rotations.find(id);
  if (rotation === null) throw new NotFoundError('There is no such rotation.');
  return rotation;
}

/** The error for a rotation that cannot begin, or continue, because another owner has the lease. */
export async function inProgressError(rotations: RotationStore): Promise<RotationInProgressError> {
  const runningId = (await rotations.findUnfinished())?.id ?? null;
  const message =
    runningId === null
      ? 'Another process has just finished this rotation: run it again to confirm that every row is rotated.'
      : `Rotation ${runningId} is running: wait for it, see GET /admin/rotate/${runningId}.`;
  return new RotationInProgressError(message, { rotation_id: runningId });
}

interface CancelContext {
  readonly rotations: RotationStore;
  readonly journal: AuditJournal;
}

/**
 * Ends a rotation that has not switched the active key. Throws NotFoundError, or RotationInProgressError if it has switched or
 * ended otherwise: it can then be undone only by rotating back.
 */
export async function cancelRotation({ rotations, journal }: CancelContext, actor: Actor, id: string): Promise<RotationRecord> {
  const event = { act: 'rotation.cancel', outcome: 'done', details: { rotation_id: id } };
  const isCancelled = await journal.recorded(actor, event, (record) => rotations.cancel(id, record));
  const rotation = await findRotation(rotations, id);
  if (isCancelled || rotation.state === 'cancelled') return rotation;
  const refusal = new RotationInProgressError(`Rotation ${id} cannot be cancelled any more: ${wayBackFrom(rotation)}`, {
    rotation_id: id,
  });
  await journal.refused(actor, 'rotation.cancel', refusal, { rotation_id: id });
  throw refusal;
}

function wayBackFrom({ state, fromKeyId, toKeyId }: RotationRecord): string {
  if (state === 'failed') return 'it has failed, and written nothing.';
  const back = `rotate from ${toKeyId} back to ${fromKeyId}`;
  return state === 'completed' ? `it is completed. To undo it, ${back}.` : `it has switched. Finish it, and to undo it, ${back}.`;
}
