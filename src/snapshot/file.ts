/** Writes a snapshot into a file that exists complete or not at all, survives a crash, and is accessible to its owner alone. */

import { createHash, randomBytes } from 'node:crypto';
import { open, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { ConfigurationError } from '../errors.ts';
import type { SnapshotFile } from '../store/rotation-record.ts';
import { snapshotStart } from './format.ts';
import type { Snapshot } from './take.ts';

/** A new, unique name that sorts by time. */
export function newSnapshotPath(folder: string): string {
  const time = new Date().toISOString().replaceAll(/[-:]|\.\d+/g, '');
  return join(folder, `snapshot-${time}-${randomBytes(4).toString('hex')}.ndjson`);
}

/**
 * Writes a snapshot to this path, where it may replace only an older snapshot, and closes it. Throws ConfigurationError if the
 * path holds anything else, or cannot be written.
 */
export async function writeSnapshotTo(path: string, snapshot: Snapshot): Promise<SnapshotFile> {
  const target = resolve(path);
  const partial = `${target}.${randomBytes(4).toString('hex')}.partial`;
  try {
    await assertReplaceable(target);
    const sha256 = await writeSynced(partial, snapshot);
    await rename(partial, target);
    await syncFolder(dirname(target));
    return { path: target, sha256 };
  } catch (error) {
    await unlink(partial).catch(() => undefined);
    if (!(error instanceof Error && 'syscall' in error && 'code' in error)) throw error;
    throw new ConfigurationError(`The snapshot could not be written to ${target} (${String(error.code)}).`);
  } finally {
    await snapshot.close();
  }
}

/** Throws ConfigurationError if the path holds anything but a snapshot: a database, key file or device must not be lost. */
export async function assertReplaceable(path: string): Promise<void> {
  const found = await stat(path).catch(() => null);
  if (found === null || (found.isFile() && found.size === 0)) return;
  if (found.isFile() && (await readStart(path).catch(() => '')) === snapshotStart) return;
  throw new ConfigurationError(`${path} exists and is not a snapshot, so it is not replaced: name another file.`);
}

async function readStart(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(snapshotStart.length), 0, snapshotStart.length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

async function writeSynced(path: string, snapshot: Snapshot): Promise<string> {
  const hash = createHash('sha256');
  const file = await open(path, 'wx', 0o600);
  try {
    for await (const chunk of snapshot.chunks()) {
      hash.update(chunk);
      await file.appendFile(chunk);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return hash.digest('hex');
}

/** Makes the names of the folder's files survive a crash too. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
