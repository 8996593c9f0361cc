/** What an operator is told of a rotation, by whichever process is asked. */

import { expect, it } from 'vitest';
import { Database } from '../../src/store/database.ts';
import { RotationStore } from '../../src/store/rotations.ts';
import { beginRotation } from '../support/rotation.ts';
import { keyB, startVault, temporaryDatabase } from '../support/vault.ts';

it('a rotation that another process runs is shown with the progress that it last put on record', async () => {
  const { url, gateway: database } = await temporaryDatabase();
  const { admin } = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB });
  const connection = new Database({ url });
  await beginRotation(new RotationStore(connection), 'another');
  await connection.close();
  await database.run(`UPDATE vault_rotations SET progress = '{"rowsDone":3,"rowsTotal":9,"rowsPerSecond":1.5,"secondsLeft":4}'`);
  const progress = { rows_done: 3, rows_total: 9, rows_per_second: 1.5, seconds_left: 4 };
  expect((await admin('GET', '/admin/rotate')).body.running).toMatchObject({ id: 'sample', state: 'gating', progress });
});
