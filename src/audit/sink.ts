/**
 * Appends lines to standard output or a file, many in one write, each reported once the system has taken it. What could not
 * be written is kept, and goes out before anything else.
 */

import { write, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ConfigurationError } from '../errors.ts';
import { within } from '../runtime/within.ts';

const standardOutput = 'stdout';
const newline = 0x0a;
/** A reader that takes nothing for so long counts as gone. */
const patienceMs = 5_000;
/** What the system writes to a pipe in one piece: other lines of the process go to standard output too. */
const pipeBytes = 4_096;
/** How long a pipe that is full is left alone. */
const fullPipeMs = 5;

const writeBytes = promisify(write);

interface Waiting {
  readonly line: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class AuditSink {
  readonly #target: string;
  readonly #onFailure: (error: unknown) => void;
  #file: FileHandle | null = null;
  /** Whether a write ends without waiting for anybody who reads. */
  #isRegularFile = false;
  #waiting: Waiting[] = [];
  /** Lines on their way; of the first, `#written` bytes are out. */
  #lines: Buffer[] = [];
  #written = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #isFlushing = false;
  #isFailing = false;
  #recovery: Promise<void> | null = null;

  /** `target` is `stdout` or a path. `onFailure` is told when the sink stops taking lines, once each time. */
  constructor(target: string, onFailure: (error: unknown) => void = () => undefined) {
    this.#target = target;
    this.#onFailure = onFailure;
  }

  /** Whether the last write failed: then {@link recover} comes before the next line. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  /** Opens the file, or lets go of one that has been moved away and begins it anew. Throws ConfigurationError; then all stays as it is. */
  async open(): Promise<void> {
    await this.#inTurn(() => this.#openFile());
  }

  /** Resolves once the line is out. Rejects where it is not; it is kept then, for {@link recover}. */
  write(line: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ line, resolve, reject });
      if (this.#isFlushing) return;
      this.#isFlushing = true;
      // After all that the promises of this turn bring, but within it: whoever waits for the line need not wait for the next.
      process.nextTick(() => void this.#flush());
    });
  }

  /** Writes what was kept, once for all who ask for it meanwhile. Rejects where that fails again. */
  recover(): Promise<void> {
    this.#recovery ??= withPatience(this.#inTurn(() => this.#drain()))
      .then(() => {
        this.#isFailing = false;
      })
      .finally(() => {
        this.#recovery = null;
      });
    return this.#recovery;
  }

  /** Writes what is left, as far as that succeeds. */
  async close(): Promise<void> {
    await withPatience(this.#inTurn(() => this.#drain())).catch(() => undefined);
    await this.#file?.close().catch(() => undefined);
    this.#file = null;
  }

  /** All lines that have come so far in one write, and again until there are none. */
  async #flush(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      for (const { line } of batch) this.#lines.push(Buffer.from(`${line}\n`, 'utf8'));
      try {
        await withPatience(this.#inTurn(() => this.#drain()));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        this.#fail(batch, error);
      }
    }
    this.#isFlushing = false;
  }

  #fail(batch: readonly Waiting[], error: unknown): void {
    const late = this.#waiting;
    this.#waiting = [];
    for (const { line } of late) this.#lines.push(Buffer.from(`${line}\n`, 'utf8'));
    if (!this.#isFailing) this.#onFailure(error);
    this.#isFailing = true;
    for (const { reject } of [...batch, ...late]) reject(error);
  }

  async #drain(): Promise<void> {
    while (this.#lines.length > 0) {
      this.#advance(await this.#writeSome(this.#nextBytes()));
    }
  }

  /** All that is left; on standard output as many whole lines as stay in one piece. */
  #nextBytes(): Buffer {
    if (this.#target !== standardOutput) return Buffer.concat(this.#lines).subarray(this.#written);
    let [count, total] = [0, 0];
    for (const { length } of this.#lines) {
      if (count > 0 && total + length > pipeBytes) break;
      count += 1;
      total += length;
    }
    return Buffer.concat(this.#lines.slice(0, count)).subarray(this.#written);
  }

  async #writeSome(bytes: Buffer): Promise<number> {
    if (this.#target !== standardOutput && this.#file === null) throw new Error('The audit log is closed.');
    try {
      const descriptor = this.#file?.fd ?? 1;
      // The system takes a line into its memory sooner than another thread takes up the work, which may be milliseconds late.
      if (this.#isRegularFile) return writeSync(descriptor, bytes);
      return (await writeBytes(descriptor, bytes)).bytesWritten;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error;
      await sleep(fullPipeMs);
      return 0;
    }
  }

  #advance(bytes: number): void {
    this.#written += bytes;
    for (let first = this.#lines[0]; first !== undefined && this.#written >= first.length; first = this.#lines[0]) {
      this.#written -= first.length;
      this.#lines.shift();
    }
  }

  async #openFile(): Promise<void> {
    if (this.#target === standardOutput) return;
    const file = await open(this.#target, 'a+', 0o600).catch((error: NodeJS.ErrnoException) => {
      throw new ConfigurationError(`VAULT_AUDIT_LOG names a file that cannot be opened (${error.code}).`);
    });
    const stats = await file.stat();
    const isRegularFile = stats.isFile();
    // What a process that died has left of a line must not become the beginning of another.
    if (isRegularFile && (await endsWithinLine(file, stats.size))) await file.write('\n');
    await this.#file?.close();
    this.#file = file;
    this.#isRegularFile = isRegularFile;
    this.#written = 0;
  }

  #inTurn<Result>(step: () => Promise<Result>): Promise<Result> {
    const result = this.#turn.then(step);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}

async function endsWithinLine(file: FileHandle, size: number): Promise<boolean> {
  if (size === 0) return false;
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer[0] !== newline;
}

function withPatience<Result>(work: Promise<Result>): Promise<Result> {
  return within(work, patienceMs, () => {
    throw new Error('The audit log takes nothing.');
  });
}
