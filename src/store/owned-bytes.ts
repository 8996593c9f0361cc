/** Memory that bytes have to themselves: it moves to another thread uncopied, or is given back before the collector comes. */

import { MessageChannel, type MessagePort } from 'node:worker_threads';

/** What of these bytes can be moved to another thread: what holds others' bytes as well is left to be copied. */
export function movable(arrays: readonly Uint8Array[]): ArrayBuffer[] {
  return arrays.flatMap(({ buffer, byteLength }) =>
    buffer instanceof ArrayBuffer && buffer.byteLength === byteLength ? [buffer] : [],
  );
}

let closedPort: MessagePort | null = null;

/**
 * Gives the memory of bytes back that nobody needs any more, and leaves them empty: for the collector they are a small object, and
 * half a megabyte each would lie about until it comes. What is not {@link movable} stays as it is.
 */
export function release(bytes: Uint8Array): void {
  closedPort ??= makeClosedPort();
  // A message to nobody is dropped at once, with all that was moved into it (HTML, 9.4.4, message ports).
  closedPort.postMessage(null, movable([bytes]));
}

function makeClosedPort(): MessagePort {
  const { port1 } = new MessageChannel();
  port1.close();
  return port1;
}
