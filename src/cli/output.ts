/**
 * A command's output: results on standard output, errors on standard error; in colour only on a terminal, and never with
 * NO_COLOR.
 */

import { styleText } from 'node:util';

let failure: NodeJS.ErrnoException | null = null;
process.stdout.on('error', (error) => {
  failure ??= error;
});
// If standard error fails there is nowhere left to report it.
process.stderr.on('error', () => undefined);

export function print(line: string): void {
  process.stdout.write(`${onOneLine(line)}\n`);
}

/** Resolves once all output has been written or has failed, with the error code of standard output, or null. */
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
  process.stderr.write(`${styled}${onOneLine(line)}\n`);
}

/**
 * Escapes control characters: a line may quote what others have put into the database or a file, and that must neither look like
 * the command's own lines nor hide them on a terminal.
 */
function onOneLine(text: string): string {
  return text.replace(/\p{Cc}/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
