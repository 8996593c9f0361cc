/** The entry of a survey's thread: opens every row over its own database connection, and changes nothing. */

import { Keyring } from '../crypto/keyring.ts';
import { type Survey, survey } from '../keys/survey.ts';
import type { SurveyTask } from '../keys/surveyor.ts';
import { answerRequests } from '../runtime/thread.ts';
import { createThrottle } from '../runtime/throttle.ts';
import { Database } from '../store/database.ts';
import { EncryptedTables } from '../store/encrypted-tables.ts';

answerRequests<SurveyTask, Survey>(async ({ database: location, coverage, keys }, { stopped }) => {
  const database = new Database(location);
  try {
    return await survey(new EncryptedTables(database), coverage, new Keyring(keys), createThrottle(stopped));
  } finally {
    await database.close();
  }
});
