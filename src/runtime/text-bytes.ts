/**
 * Builds a long text as bytes, which can be transferred to another thread; string parts would stay in memory until they are
 * joined.
 */

const firstBytes = 64 * 1024;
/** UTF-8 bytes per UTF-16 code unit, at most. */
const maxBytesPerCharacter = 3;

export class TextBytes {
  #bytes = Buffer.alloc(firstBytes);
  #length = 0;

  /** In bytes. */
  get length(): number {
    return this.#length;
  }

  append(text: string): void {
    if (this.#length + text.length * maxBytesPerCharacter > this.#bytes.length) this.#makeRoom(Buffer.byteLength(text));
    this.#length += this.#bytes.write(text, this.#length);
  }

  /** Returns what has been appended, in a buffer of its own, and resets to empty. */
  take(): Uint8Array {
    const bytes = new Uint8Array(this.#bytes.subarray(0, this.#length));
    this.#length = 0;
    return bytes;
  }

  #makeRoom(bytes: number): void {
    const needed = this.#length + bytes;
    if (needed <= this.#bytes.length) return;
    const room = Math.max(needed, 2 * this.#bytes.length);
    this.#bytes = Buffer.concat([this.#bytes.subarray(0, this.#length)], room);
  }
}
