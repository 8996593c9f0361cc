/** The entry of a thread that opens and seals texts: it has keys, and no database. */

import { workerData } from 'node:worker_threads';
import { Keyring } from '../crypto/keyring.ts';
import { answerRequests } from '../runtime/thread.ts';
import { type TextResults, type TextTask, TextWork } from '../vault/text-work.ts';
import type { TextThreadSettings } from '../vault/text-workers.ts';

const { keys } = workerData as TextThreadSettings;
const work = new TextWork(new Keyring(keys));

answerRequests((task: TextTask): TextResults => work.work(task));
