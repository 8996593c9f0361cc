// Rotates a table with the built code, and kills itself with SIGKILL right before or right after one of its writes, or freezes
// right before it. Arguments: the database's URL, the rows of one commit, "before", "after" or "freeze", and the number of the
// write (from 1; 0: none; for "freeze" counted from the rotation's first, without the writes at the start). Prints how many
// writes there were.
import { readCliConfig } from '../../dist/config.js';
import { createSilentLogger } from '../../dist/logging.js';
import { buildServices } from '../../dist/services.js';
import { Database } from '../../dist/store/database.js';

const [, , url, atomicRows, moment, ordinal] = process.argv;
let writes = 0;

class DyingDatabase extends Database {
  async write(statements) {
    writes += 1;
    if (writes === Number(ordinal) && moment === 'before') process.kill(process.pid, 'SIGKILL');
    if (writes === Number(ordinal) && moment === 'freeze') process.kill(process.pid, 'SIGSTOP');
    const written = await super.write(statements);
    if (writes === Number(ordinal) && moment === 'after') process.kill(process.pid, 'SIGKILL');
    return written;
  }
}

const config = readCliConfig({
  DATABASE_URL: url,
  PROVARA_MASTER_KEY: 'a1'.repeat(32),
  PROVARA_MASTER_KEY_NEW: 'b2'.repeat(32),
  VAULT_ROTATION_ATOMIC_ROWS: atomicRows,
});
const services = buildServices(config, createSilentLogger(), { database: new DyingDatabase(config.database) });
await services.migrate();
if (moment === 'freeze') writes = 0;
const key = (index) => config.keyring.entries[index].key.id;
const { done } = await services.rotator.start({ oldKeyId: key(0), newKeyId: key(1) });
const { state } = await done;
process.stdout.write(`${state} ${writes}\n`);
process.exit(0);
