/** Random IVs, each handed out once: drawn from the system's generator many at a time, because asking it costs more than the bytes. */

import { randomBytes } from 'node:crypto';

const drawnBytes = 8_192;
let drawn = Buffer.alloc(0);

export function freshIv(length: number): Buffer {
  if (drawn.length < length) drawn = randomBytes(drawnBytes);
  const iv = drawn.subarray(0, length);
  drawn = drawn.subarray(length);
  return iv;
}
