/**
 * Checks before anything else is done that a command's input exists and can be read, and otherwise says what is wrong with it.
 */

import { accessSync, constants, statSync } from 'node:fs';
import { ValidationError } from '../errors.ts';

/** A pipe is accepted like a file. Throws ValidationError. */
export function assertReadable(path: string): void {
  let isFolder = false;
  try {
    accessSync(path, constants.R_OK);
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw new ValidationError(`The file ${path} cannot be read (${(error as NodeJS.ErrnoException).code}).`);
  }
  if (isFolder) throw new ValidationError(`${path} is a folder, and no file.`);
}

/** As {@link assertReadable}, but refuses a pipe, which is empty when read again. */
export function assertReadableTwice(path: string): void {
  assertReadable(path);
  if (!statSync(path).isFile())
    throw new ValidationError(`${path} is read twice, and is no regular file: write it to one first.`);
}
