/** Splits bytes at line feeds alone: a text may hold what Unicode, and Node's own reader of lines, take for the end of one. */

import { isUtf8 } from 'node:buffer';

/** Each line with its end, the last as it is. Null in place of a line that is longer than `maxBytes`, and nothing after it. */
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

/** What a line says. Bytes that are no UTF-8 end as no line does: read leniently they could pass for another. */
export function textOfLine(bytes: Buffer): string {
  return isUtf8(bytes) ? bytes.toString('utf8') : `${bytes.toString('latin1')}\0`;
}
