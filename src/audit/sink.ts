/**
 * Appends lines to standard output or a file, many in one write, and reports each once the system has accepted it. Lines that
 * could not be written are kept, and are written before any others.
 */

import { write, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ConfigurationError } from '../errors.ts';
import { withTimeout } from '../runtime/with-timeout.ts';

const standardOutput = 'stdout';
const newline = 0x0a;
/** Ends a partial line, left by a process that died, which must not become the beginning of the next one. */
const lineEnd = Buffer.from('\n');
/** A reader that accepts nothing for this long counts as gone. */
const patienceMs = 5_000;
/** The most that the system writes to a pipe atomically: the process writes other lines to standard output too. */
const pipeBytes = 4_096;
/** How long to wait before writing to a full pipe again. */
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
  /** Whether writes complete without waiting for a reader. */
  #isRegularFile = false;
  #waiting: Waiting[] = [];
  /** Lines being written; `#written` bytes of the first are out. */
  #lines: Buffer[] = [];
  #written = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #isFlushing = false;
  #isFailing = false;
  #recovery: Promise<void> | null = null;

  /** `target` is `stdout` or a path. `onFailure` is called each time the sink begins to fail. */
  constructor(target: string, onFailure: (error: unknown) => void = () => undefined) {
    this.#target = target;
    this.#onFailure = onFailure;
  }

  /** Whether the last write failed: then {@link recover} must succeed before the next line. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  /**
   * Opens the file, or reopens it at its path after it has been moved away. Throws ConfigurationError, and then leaves everything
   * as it was.
   */
  async open(): Promise<void> {
    await this.#inTurn(() => this.#openFile());
  }

  /** Resolves once the line is written. Rejects otherwise; the line is then kept for {@link recover}. */
  write(line: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ line, resolve, reject });
      if (this.#isFlushing) return;
      this.#isFlushing = true;
      // Runs after the promise callbacks of this turn, so that their lines join the write, but within the turn, so that no caller
      // waits for the next.
      process.nextTick(() => void this.#flush());
    });
  }

  /** Writes the kept lines, once for all concurrent callers. Rejects if that fails again. */
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

  /** Writes the remaining lines as far as possible, and closes the file. */
  async close(): Promise<void> {
    await withPatience(this.#inTurn(() => this.#drain())).catch(() => undefined);
    await this.#file?.close().catch(() => undefined);
    this.#file = null;
  }

  /** Writes all waiting lines at once, and repeats until there are none. */
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

  /** All remaining bytes; for standard output only as many whole lines as a pipe takes atomically. */
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
      // The system copies a line into its memory sooner than a pool thread picks up the work, which may be milliseconds late.
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
    const isWithinLine = isRegularFile && (await endsWithinLine(file, stats.size));
    await this.#file?.close();
    this.#file = file;
    this.#isRegularFile = isRegularFile;
    this.#written = 0;
    const lines = this.#lines.filter((line) => line !== lineEnd);
    // Written with the next line, and not at once: a full disk must not keep the vault from starting.
    this.#lines = isWithinLine ? [lineEnd, ...lines] : lines;
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
  return withTimeout(work, patienceMs, () => {
    throw new Error('The audit log takes nothing.');
  });
}
