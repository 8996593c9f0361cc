/** A temporary file that only this process can reach: it is unlinked once open, so that nothing ever stays behind. */

import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PayloadTooLargeError, StorageUnavailableError, ValidationError } from '../errors.ts';

const chunkBytes = 64 * 1024;
const unwritable = 'The folder for temporary files is full or cannot be written.';

export class Spool {
  /** May be transferred to another thread, which then owns the file; this spool is no longer usable. */
  readonly file: FileHandle;
  #isClosed = false;

  /** Wraps the file of another thread's spool. */
  constructor(file: FileHandle) {
    this.file = file;
  }

  /** Throws StorageUnavailableError if the folder for temporary files cannot be written. */
  static async create(): Promise<Spool> {
    const path = join(tmpdir(), `provara-vault-${randomUUID()}.spool`);
    try {
      const file = await open(path, 'wx+', 0o600);
      await unlink(path);
      return new Spool(file);
    } catch {
      throw new StorageUnavailableError(unwritable);
    }
  }

  /** Reads a whole stream. Throws PayloadTooLargeError if it is longer than `maxBytes`, and ValidationError if it breaks off. */
  static async from(source: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Spool> {
    const spool = await Spool.create();
    let bytes = 0;
    try {
      for await (const chunk of whole(source)) {
        bytes += chunk.length;
        if (bytes > maxBytes) throw new PayloadTooLargeError(`The snapshot is larger than the ${maxBytes} bytes that are taken.`);
        await spool.write(chunk);
      }
      return spool;
    } catch (error) {
      await spool.close();
      throw error;
    }
  }

  /** Appends. Throws StorageUnavailableError if the disk does not accept it. */
  async write(chunk: Uint8Array): Promise<void> {
    try {
      await this.file.appendFile(chunk);
    } catch {
      throw new StorageUnavailableError(unwritable);
    }
  }

  /** The whole content from the beginning; may be read several times. */
  async *chunks(): AsyncGenerator<Buffer> {
    for (let position = 0; ; ) {
      const { bytesRead, buffer } = await this.file.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes, position);
      if (bytesRead === 0) return;
      position += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.file.close();
  }
}

async function* whole(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'it ended early';
    throw new ValidationError(`The snapshot could not be read to its end (${code}).`);
  }
}
