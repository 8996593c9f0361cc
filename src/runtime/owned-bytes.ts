/**
 * Handles byte arrays that own their memory: they move to another thread without a copy, or are freed before the garbage
 * collector runs.
 */

import { MessageChannel, type MessagePort } from 'node:worker_threads';

/** The buffers that can be moved to another thread; a buffer that also holds other bytes is left to be copied. */
export function movable(arrays: readonly Uint8Array[]): ArrayBuffer[] {
  return arrays.flatMap(({ buffer, byteLength }) =>
    buffer instanceof ArrayBuffer && buffer.byteLength === byteLength ? [buffer] : [],
  );
}

let closedPort: MessagePort | null = null;

/**
 * Frees the memory of bytes that are no longer needed, and leaves them empty. The collector sees them as small objects and would
 * let half a megabyte each lie around. Bytes that are not {@link movable} stay as they are.
 */
export function release(bytes: Uint8Array): void {
  closedPort ??= makeClosedPort();
  // A message to a closed port is dropped at once, with everything transferred in it (HTML, 9.4.4, message ports).
  closedPort.postMessage(null, movable([bytes]));
}

function makeClosedPort(): MessagePort {
  const { port1 } = new MessageChannel();
  port1.close();
  return port1;
}
