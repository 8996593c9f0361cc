/** The parts that the help texts of all commands have in common. */

import { exitCodeHelp } from './exit-codes.ts';

export const jsonHelp = 'answer one line of JSON';

/** The text below the options: remarks, commands as one would type them, and the exit codes. */
export function examples(commands: readonly string[], remarks: readonly string[] = []): string {
  const lines = commands.map((command) => `  npx provara-vault ${command}`);
  return [...(remarks.length > 0 ? ['', ...remarks] : []), '', 'Examples:', ...lines, exitCodeHelp].join('\n');
}
