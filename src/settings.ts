/**
 * Reads single settings of an environment, and collects every problem instead of stopping at the first; no problem contains a
 * value.
 */

import { readFileSync } from 'node:fs';

export type Environment = Readonly<Record<string, string | undefined>>;

/** All problems of the environment, each naming its variable and no value. */
export class SettingsError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.name = 'SettingsError';
    this.problems = problems;
  }
}

export class SettingsReader {
  readonly #environment: Environment;
  readonly #problems: string[] = [];

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  problem(text: string): void {
    this.#problems.push(text);
  }

  /** Throws SettingsError if there were any problems. */
  assertNone(): void {
    if (this.#problems.length > 0) throw new SettingsError(this.#problems);
  }

  /** Undefined if the variable is unset or empty. */
  text(name: string): string | undefined {
    return this.#environment[name] || undefined;
  }

  /** Whether `NAME` or `NAME_FILE` is set, valid or not. */
  isSet(name: string): boolean {
    return this.text(name) !== undefined || this.text(`${name}_FILE`) !== undefined;
  }

  /** The value of `NAME`, or the contents of the file named by `NAME_FILE`, without one trailing newline. */
  textOrFile(name: string): string | undefined {
    const value = this.text(name);
    const path = this.text(`${name}_FILE`);
    if (path === undefined) return value;
    if (value !== undefined) {
      this.problem(`${name} and ${name}_FILE are both set: keep one.`);
      return undefined;
    }
    return this.#readFile(`${name}_FILE`, path);
  }

  integer(name: string, fallback: number, { min, max }: { min: number; max: number }): number {
    const value = this.text(name);
    if (value === undefined) return fallback;
    const number = Number(value);
    if (/^\d+$/.test(value) && number >= min && number <= max) return number;
    this.problem(`${name} must be a whole number from ${min} to ${max}.`);
    return fallback;
  }

  oneOf<Choice extends string>(name: string, choices: readonly Choice[], fallback: Choice): Choice {
    const value = this.text(name);
    const choice = choices.find((candidate) => candidate === value);
    if (value !== undefined && choice === undefined) this.problem(`${name} must be one of ${choices.join(', ')}.`);
    return choice ?? fallback;
  }

  /** Comma-separated; white space around each item is dropped. */
  list(name: string): readonly string[] | undefined {
    return this.text(name)
      ?.split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '');
  }

  #readFile(name: string, path: string): string | undefined {
    try {
      const contents = readFileSync(path, 'utf8').replace(/\r?\n$/, '');
      if (contents === '') this.problem(`${name} names an empty file.`);
      return contents || undefined;
    } catch {
      this.problem(`${name} names a file that cannot be read.`);
      return undefined;
    }
  }
}

/** Decodes a part of a setting in which separators are %-encoded; null if it is malformed. */
export function percentDecoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
