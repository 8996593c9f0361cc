/** What a command says: results on standard output, errors on standard error. */

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

export function printError(line: string, prefix = 'error: '): void {
  process.stderr.write(`${prefix}${line}\n`);
}
