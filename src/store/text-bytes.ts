/** A text that is put together in bytes, which another thread can be handed; as strings its parts would live until they are joined. */

const firstBytes = 64 * 1024;
/** Of UTF-8, for what the length of a string counts as one. */
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

  /** What has been appended, in a buffer of its own; from here on it is empty. */
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
