/** Logs at startup, and then once a day, that the active master key is due for rotation, for as long as it is. */

import type { Logger } from 'pino';
import { labelOfKey } from '../crypto/master-key.ts';
import { Repetition } from '../runtime/repetition.ts';
import type { MasterKeyStore } from '../store/master-keys.ts';
import { ageSecondsOf, isRotationDue, secondsPerDay } from './report.ts';

const dayMs = secondsPerDay * 1000;

export interface AgeWatchContext {
  readonly masterKeys: MasterKeyStore;
  readonly rotationDueDays: number;
  readonly logger: Pick<Logger, 'warn'>;
}

/** Best effort: a database that does not answer is asked again the next day. */
export function watchAge(context: AgeWatchContext, intervalMs = dayMs): Repetition {
  return new Repetition(intervalMs, () => check(context), true);
}

async function check({ masterKeys, rotationDueDays, logger }: AgeWatchContext): Promise<void> {
  const active = (await masterKeys.all()).find((record) => isRotationDue(record, rotationDueDays));
  if (active === undefined) return;
  logger.warn(
    {
      key_id: labelOfKey(active.keyId, active.isPassphrase),
      age_days: Math.floor(ageSecondsOf(active) / secondsPerDay),
      due_days: rotationDueDays,
    },
    'the active master key is due for rotation: stage PROVARA_MASTER_KEY_NEW and POST /admin/rotate/execute',
  );
}
