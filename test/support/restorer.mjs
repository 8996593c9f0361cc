// Restores a snapshot with the built code, and kills itself with SIGKILL right before or right after one of its writes.
// Arguments: the database's URL, the snapshot's file, the mode, the folder for the state before, "before" or "after", and the
// number of the write (from 1; 0: none). Prints how many writes there were.
import { createReadStream } from 'node:fs';
import { readCliConfig } from '../../dist/config.js';
import { createSilentLogger } from '../../dist/logging.js';
import { buildServices } from '../../dist/services.js';
import { Database } from '../../dist/store/database.js';

const actor = { name: 'tester', role: 'gateway', requestId: null };
const [, , url, file, mode, folder, moment, ordinal] = process.argv;
let writes = 0;

class DyingDatabase extends Database {
  async write(statements, workMs) {
    writes += 1;
    if (writes === Number(ordinal) && moment === 'before') process.kill(process.pid, 'SIGKILL');
    const written = await super.write(statements, workMs);
    if (writes === Number(ordinal) && moment === 'after') process.kill(process.pid, 'SIGKILL');
    return written;
  }
}

const config = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: 'a1'.repeat(32), VAULT_SNAPSHOT_DIR: folder });
const services = buildServices(config, createSilentLogger(), { database: new DyingDatabase(config.database) });
const { restored } = await services.snapshots.restore(actor, createReadStream(file), mode, Number.POSITIVE_INFINITY);
process.stdout.write(`${restored} ${writes}\n`);
process.exit(0);
