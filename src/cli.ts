#!/usr/bin/env node
/** The operator's command line: the services of the server, without HTTP. */

import { readFileSync } from 'node:fs';
import { styleText } from 'node:util';
import { Command, CommanderError } from 'commander';
import { type AuditVerifyFlags, verifyAuditRecords } from './cli/audit.ts';
import { exitCodeHelp, exitCodeOf, exitCodes } from './cli/exit-codes.ts';
import { type GenerateFlags, generate } from './cli/generate.ts';
import { type InspectFlags, status, verify } from './cli/inspect.ts';
import { OutputError, outputFailure, printError, printJson } from './cli/output.ts';
import { explainGateFailure, parseSkip, type RotateFlags, rotate } from './cli/rotate.ts';
import { parseMode, type RestoreFlags, restore, type SnapshotFlags, snapshot } from './cli/snapshot.ts';
import { DecryptGateFailedError, type ErrorAnswer, VaultError } from './errors.ts';
import { SettingsError } from './settings.ts';

let exitCode: number = exitCodes.done;
const jsonHelp = 'print one line of JSON';
/** The name of an option or command; none is longer. */
const isName = /^--?[a-z][a-z-]{0,17}$/;
/** Read before parsing, so that errors in the command line itself are reported as JSON too. */
const isJson = process.argv.includes('--json');

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };

const program = new Command('provara-vault')
  .description('Rotates and inspects the master key of a gateway’s encrypted provider keys.')
  .version(version, '-V, --version', 'print the version')
  .configureHelp({ styleTitle: (title) => styleText('bold', title) })
  .configureOutput({ outputError: (text, write) => write(withoutValues(text)) })
  .addHelpText(
    'after',
    examples(
      ['generate', 'status', 'rotate --dry-run', 'rotate', 'snapshot --out vault.ndjson', 'help rotate'],
      [
        'It works on DATABASE_URL with DATABASE_AUTH_TOKEN. With --json every command prints one line of JSON on',
        'standard output, even if it fails: {"error": {"type": …, "message": …}}.',
      ],
    ),
  )
  .exitOverride();

program
  .command('rotate')
  .description('rotate the master key, or finish a rotation that was interrupted')
  .option('--old <key>', 'the master key that the rows are under (default: PROVARA_MASTER_KEY_OLD or …_OLD_FILE)')
  .option('--new <key>', 'the master key to rotate them to, 64 hex characters (default: PROVARA_MASTER_KEY_NEW or …_NEW_FILE)')
  .option('--dry-run', 'open every row, and change nothing')
  .option('--skip <id,id>', String.raw`leave these rows out: id, or table:id; a comma in an id is written \,`, parseSkip)
  .option('--upgrade-format', 'write api_keys rows in format 2, which is bound to tenant and name')
  .option('--force', 'continue although a live replica lacks a key')
  .option('--json', jsonHelp)
  .addHelpText(
    'after',
    examples(
      ['rotate --dry-run', 'rotate', 'rotate --skip 4f1c,context_connector_credentials:9be0'],
      [
        "A key on the command line shows in the process list and in the shell's history: prefer the variables, or",
        'PROVARA_MASTER_KEY_OLD_FILE=old.key and PROVARA_MASTER_KEY_NEW_FILE=new.key.',
      ],
    ),
  )
  .action(async (flags: RotateFlags) => {
    exitCode = await rotate(flags, process.env);
  });

program
  .command('generate')
  .description('print a fresh master key')
  .option('--json', jsonHelp)
  .addHelpText('after', examples(['generate > new.key']))
  .action((flags: GenerateFlags) => generate(flags));

program
  .command('verify')
  .description('open every row with the keys of the environment')
  .option('--json', jsonHelp)
  .addHelpText('after', examples(['verify', 'verify --json']))
  .action(async (flags: InspectFlags) => {
    exitCode = await verify(flags, process.env);
  });

program
  .command('audit')
  .description('check the audit records')
  .command('verify')
  .description('name every record that is broken, missing or out of place')
  .option('--file <path>', 'a file of the audit log; give several oldest first', (path, files: string[]) => [...files, path], [])
  .option('--no-database', 'read the files alone')
  .option('--pruned', 'accept that the oldest records have been removed')
  .option('--json', jsonHelp)
  .addHelpText(
    'after',
    examples(
      ['audit verify', 'audit verify --file audit.log.1 --file audit.log --json'],
      ['Records are verified with the keys of the environment: give a retired one as PROVARA_MASTER_KEY_OLD.'],
    ),
  )
  .action(async (flags: AuditVerifyFlags) => {
    exitCode = await verifyAuditRecords(flags, process.env);
  });

program
  .command('status')
  .description('say which key is active and what each key holds')
  .option('--json', jsonHelp)
  .addHelpText('after', examples(['status', 'status --json']))
  .action(async (flags: InspectFlags) => {
    exitCode = await status(flags, process.env);
  });

program
  .command('snapshot')
  .description('write every covered row, encrypted as it is, for a restore')
  .option('--out <file>', 'where to write it (default: standard output)')
  .option('--check <file>', 'prove that a file is whole, authentic and opens with the keys of the environment; needs no database')
  .option('--json', `${jsonHelp}; with --out or --check`)
  .addHelpText('after', examples(['snapshot --out vault.ndjson', 'snapshot --check vault.ndjson']))
  .action(async (flags: SnapshotFlags) => {
    exitCode = await snapshot(flags, process.env);
  });

program
  .command('restore')
  .description('check the whole of a snapshot, then put it back in one transaction')
  .argument('<file>', 'the snapshot, or - for standard input')
  .option(
    '--mode <mode>',
    'merge puts back rows that are missing or do not open; replace makes the tables what the snapshot holds',
    parseMode,
    'merge' as const,
  )
  .option('--json', jsonHelp)
  .addHelpText('after', examples(['restore vault.ndjson', 'restore --mode replace vault.ndjson']))
  .action(async (file: string, flags: RestoreFlags) => {
    exitCode = await restore(file, flags, process.env);
  });

try {
  await program.parseAsync();
} catch (error) {
  exitCode = exitCodeOf(error);
  explain(error);
  if (isJson && exitCode !== exitCodes.done) printJson({ error: describeError(error) });
}
const lost = await outputFailure();
// A reader that closes the pipe has read enough.
if (lost !== null && lost !== 'EPIPE' && exitCode === exitCodes.done) {
  printError(`Standard output has not taken everything (${lost}).`);
  exitCode = exitCodes.unexpected;
}
// The database is left open: closing it would checkpoint a write-ahead log into the file, which a dry run must not do.
process.exit(exitCode);

function explain(error: unknown): void {
  if (error instanceof CommanderError) return;
  if (error instanceof DecryptGateFailedError) explainGateFailure(error);
  else if (error instanceof SettingsError) for (const problem of error.problems) printError(problem);
  else if (error instanceof VaultError || error instanceof OutputError) printError(error.message);
  else explainUnexpected(error instanceof Error ? `unexpected: ${error.stack ?? error.message}` : 'unexpected');
}

function explainUnexpected(text: string): void {
  const [first = '', ...frames] = text.split('\n');
  printError(first);
  for (const frame of frames) printError(frame, '');
}

/** The text below the options: remarks, commands as one would type them, and the exit codes. */
function examples(commands: readonly string[], remarks: readonly string[] = []): string {
  const lines = commands.map((command) => `  npx provara-vault ${command}`);
  return [...(remarks.length > 0 ? ['', ...remarks] : []), '', 'Examples:', ...lines, exitCodeHelp].join('\n');
}

/**
 * Names an unknown option or command without the value given with it, which may be a key; hides it altogether if it does not look
 * like a name, since it may then be a key itself.
 */
function withoutValues(text: string): string {
  return text.replace(/(unknown (?:option|command)) '([\s\S]*)'/, (_text, what: string, given: string) => {
    const [name = ''] = given.split('=', 1);
    return isName.test(name) ? `${what} '${name}'` : `${what}, which is not shown: it may be a key`;
  });
}

/** Details of an unexpected error appear on standard error only. */
function describeError(error: unknown): ErrorAnswer {
  if (error instanceof VaultError) return error.toAnswer();
  if (error instanceof SettingsError) return { type: 'validation_error', message: error.problems.join(' ') };
  if (error instanceof CommanderError) return { type: 'validation_error', message: withoutValues(error.message) };
  return { type: 'internal_error', message: error instanceof OutputError ? error.message : 'unexpected' };
}
