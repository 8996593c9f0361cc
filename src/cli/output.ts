/** What a command says: results on standard output, errors on standard error; in colour on a terminal alone, and never with NO_COLOR. */

import { styleText } from 'node:util';

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

export function printError(line: string, prefix = 'error: '): void {
  const styled = prefix === '' ? '' : styleText('red', prefix, { stream: process.stderr, validateStream: true });
  process.stderr.write(`${styled}${line}\n`);
}
