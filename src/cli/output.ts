/** What a command says: results on standard output, errors on standard error; in colour on a terminal alone, and never with NO_COLOR. */

import { styleText } from 'node:util';

/** For what another program may have put into a row: it must not look like lines of the command's own. */
export function onOneLine(text: string): string {
  return text.replace(/\p{Cc}/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

let failure: NodeJS.ErrnoException | null = null;
process.stdout.on('error', (error) => {
  failure ??= error;
});
// There is nobody left to tell.
process.stderr.on('error', () => undefined);

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Resolves once everything that was said has been taken, or has failed to be: with why standard output failed, or null. */
export async function outputFailure(): Promise<string | null> {
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise((resolve) => stream.write('', resolve))));
  return failure?.code ?? null;
}

/** Standard output has not taken what a command was asked for. */
export class OutputError extends Error {}

export function isOutputError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && error === failure;
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

export function printError(line: string, prefix = 'error: '): void {
  const styled = prefix === '' ? '' : styleText('red', prefix, { stream: process.stderr, validateStream: true });
  process.stderr.write(`${styled}${line}\n`);
}
