/**
 * Splits bytes at line feeds only: text may contain other characters that Unicode, and Node's own line reader, treat as line
 * ends.
 */

import { isUtf8 } from 'node:buffer';

/**
 * Yields each line with its line feed, which the last may lack. In place of a line longer than `maxBytes` it yields null, and
 * ends.
 */
export async function* readLines(chunks: AsyncIterable<Buffer>, maxBytes: number): AsyncGenerator<Buffer | null> {
  let begun: Buffer[] = [];
  let begunBytes = 0;
  for await (const chunk of chunks) {
    let from = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      const line = Buffer.concat([...begun, chunk.subarray(from, end + 1)]);
      from = end + 1;
      [begun, begunBytes] = [[], 0];
      if (line.length > maxBytes) return void (yield null);
      yield line;
    }
    if (from < chunk.length) begun.push(chunk.subarray(from));
    begunBytes += chunk.length - from;
    if (begunBytes > maxBytes) return void (yield null);
  }
  if (begunBytes > 0) yield Buffer.concat(begun);
}

/**
 * The text of a line. Invalid UTF-8 gets a NUL appended, which no valid line ends with: decoded leniently, it could pass for
 * another line.
 */
export function textOfLine(bytes: Buffer): string {
  return isUtf8(bytes) ? bytes.toString('utf8') : `${bytes.toString('latin1')}\0`;
}
