/** `verify` and `status`: what the database holds, determined without changing it. */

import { presentMasterKey, presentRotation, presentSurvey } from '../contract/presenters.ts';
import { ConfigurationError } from '../errors.ts';
import type { Services } from '../services.ts';
import type { Environment } from '../settings.ts';
import { exitCodes } from './exit-codes.ts';
import { print, printError, printJson } from './output.ts';
import { readConfig, warnOfUncovered, withServices } from './session.ts';

export interface InspectFlags {
  readonly json?: boolean;
}

/** Opens every row with the keys of the environment. Returns the exit code. */
export async function verify({ json }: InspectFlags, environment: Environment): Promise<number> {
  const survey = await withServices(readConfig(environment), async (services) => {
    await warnOfUncovered(services, 'they were not looked at');
    return services.verify();
  });
  if (json) printJson(presentSurvey(survey));
  else {
    print(`[verify] ${survey.rowsScanned - survey.rowsFailed} of ${survey.rowsScanned} row(s) open.`);
    for (const [keyId, rows] of survey.rowsByKeyId) print(`[verify] ${keyId}: ${rows} row(s)`);
    for (const { table, id, reason } of survey.failures) printError(`${table}.id=${id} does not open (${reason})`);
  }
  return survey.rowsFailed === 0 ? exitCodes.done : exitCodes.rowsDoNotOpen;
}

/** Shows which key is active, what each key holds, and how the last rotation went. Returns the exit code. */
export async function status({ json }: InspectFlags, environment: Environment): Promise<number> {
  const config = readConfig(environment);
  return withServices(config, async (services) => {
    if (!(await services.isMigrated())) {
      throw new ConfigurationError(
        'The vault has not served this database yet: there is no active key on record. `verify` opens its rows.',
      );
    }
    const report = await readStatus(services, config.coverage.encryptedTables);
    if (json) printJson(report);
    else printStatus(report);
    return exitCodes.done;
  });
}

async function readStatus({ reportMasterKeys, rotations }: Services, tables: readonly string[]) {
  const { activeKeyId, keys } = await reportMasterKeys();
  const last = (await rotations.findUnfinished()) ?? (await rotations.findLastFinished());
  return {
    active_key_id: activeKeyId,
    keys: keys.map(presentMasterKey),
    rotation: last && presentRotation(last, tables, null),
  };
}

function printStatus({ active_key_id, keys, rotation }: Awaited<ReturnType<typeof readStatus>>): void {
  print(`[status] active key: ${active_key_id ?? 'none'}`);
  for (const { key_id, state, source, rows, safe_to_retire } of keys) {
    const held = source === null ? 'not in the environment' : `${source}, ${rows} row(s)`;
    print(`[status] ${key_id}: ${state}, ${held}${safe_to_retire ? ', safe to retire' : ''}`);
  }
  print(rotation === null ? '[status] no rotation yet' : `[status] last rotation: ${rotation.state}, ${rotation.message}`);
  if (rotation?.error) printError(rotation.error, '');
  for (const warning of rotation?.warnings ?? []) print(`[status] ${warning}`);
}
