/** `audit verify`: verifies the audit records in the database and in files of the audit log. */

import { createReadStream } from 'node:fs';
import { type AuditReport, type AuditSource, recordIn, verifyAudit } from '../audit/verify.ts';
import { readKeyringConfig } from '../config.ts';
import { keptEnvironment } from '../development.ts';
import { ConfigurationError, ValidationError } from '../errors.ts';
import { readLines } from '../runtime/lines.ts';
import type { Environment } from '../settings.ts';
import type { AuditStore } from '../store/audit.ts';
import { exitCodes } from './exit-codes.ts';
import { assertReadableTwice } from './input.ts';
import { print, printError, printJson } from './output.ts';
import { readConfig, withServices } from './session.ts';

/** How many findings are printed; JSON has all of them. */
const shownFindings = 20;

export interface AuditVerifyFlags {
  /** Files of the audit log, oldest first. */
  readonly file?: readonly string[];
  /** False: verify the files alone. */
  readonly database: boolean;
  readonly pruned?: boolean;
  readonly json?: boolean;
}

/** Returns the exit code. */
export async function verifyAuditRecords(flags: AuditVerifyFlags, environment: Environment): Promise<number> {
  const files = flags.file ?? [];
  for (const file of files) assertReadableTwice(file);
  if (!flags.database && files.length === 0) throw new ValidationError('--no-database needs a --file.');
  const log: AuditSource[] = files.length === 0 ? [] : [{ sink: 'log', lines: () => linesOf(files) }];
  const options = { isPruned: flags.pruned === true };
  if (!flags.database) return show(await verifyAudit(log, readKeyringConfig(keptEnvironment(environment)), options), flags);
  const config = readConfig(environment);
  return withServices(config, async ({ isMigrated, auditStore }) => {
    if (!(await isMigrated())) throw new ConfigurationError('The vault has not served this database yet: nothing is on record.');
    const table: AuditSource = { sink: 'database', lines: () => linesOfTable(auditStore) };
    return show(await verifyAudit([table, ...log], config.keyring, options), flags);
  });
}

async function* linesOfTable(store: AuditStore) {
  for await (const { line, position } of store.allAfter(0)) yield { line, place: `vault_audit:${position}` };
}

async function* linesOf(files: readonly string[]) {
  for (const file of files) {
    let number = 0;
    for await (const bytes of readLines(createReadStream(file), Number.POSITIVE_INFINITY)) {
      number += 1;
      const line = bytes && recordIn(bytes);
      if (line !== null) yield { line, place: `${file}:${number}` };
    }
  }
}

function show(report: AuditReport, { json }: AuditVerifyFlags): number {
  const { records, chains, findings, anchorsUnchecked } = report;
  if (json) printJson({ records, chains, findings, anchors_unchecked: anchorsUnchecked });
  else {
    for (const { kind, place, message } of findings.slice(0, shownFindings)) printError(`${place}: ${kind}: ${message}`);
    if (findings.length > shownFindings) printError(`and ${findings.length - shownFindings} more: see --json.`, '');
    print(`[audit] ${records} record(s) of ${chains} chain(s) read, ${findings.length} finding(s).`);
    if (anchorsUnchecked > 0) print(`[audit] ${anchorsUnchecked} anchor(s) name records of what was not read.`);
  }
  return findings.length === 0 ? exitCodes.done : exitCodes.auditBroken;
}
