/** The parts that every command's help has in common. */

import { readFileSync } from 'node:fs';
import { exitCodeHelp } from './exit-codes.ts';

export const jsonHelp = 'answer one line of JSON';

/** What stands below the options: remarks, commands as one would type them, and the exit codes. */
export function examples(commands: readonly string[], remarks: readonly string[] = []): string {
  const lines = commands.map((command) => `  npx provara-vault ${command}`);
  return [...(remarks.length > 0 ? ['', ...remarks] : []), '', 'Examples:', ...lines, exitCodeHelp].join('\n');
}

export function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
