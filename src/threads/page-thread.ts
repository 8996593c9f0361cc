/** The entry of a thread that opens and seals the rows of a rotation's pages: it has keys, and no database. */

import { workerData } from 'node:worker_threads';
import { Keyring } from '../crypto/keyring.ts';
import { type PageReport, PageWork } from '../rotation/page-work.ts';
import type { PageTask, PageThreadSettings } from '../rotation/page-workers.ts';
import { movable } from '../runtime/owned-bytes.ts';
import { answerRequests } from '../runtime/thread.ts';
import { createThrottle, unthrottled } from '../runtime/throttle.ts';

const { plan, keys } = workerData as PageThreadSettings;
const keyring = new Keyring(keys);
// Keys are compared as objects, and copying makes new ones: use those of this thread's keyring.
const ownKey = (keyId: string | undefined) => (keyId === undefined ? null : (keyring.get(keyId) ?? null));
const to = ownKey(plan.to.id);
if (to === null) throw new Error('The keyring of the thread lacks the new key.');
const work = new PageWork({ ...plan, from: ownKey(plan.from?.id), to }, keyring);

answerRequests(
  ({ page, isToSeal, isThrottled }: PageTask): PageReport =>
    work.work(page, isToSeal, isThrottled ? createThrottle() : unthrottled),
  ({ sealed }) => (sealed === null ? [] : movable([...sealed.replacements, sealed.expected.tags])),
);
