/** Logs only what is listed here: no header, body or query, and of an error only its name, message and stack. */

import { type DestinationStream, type Logger, type LoggerOptions, pino } from 'pino';

/** How much may wait for a standard output that accepts nothing; further lines are dropped. */
const maxWaitingBytes = 1024 * 1024;
/** The most that the system writes to a pipe atomically: audit lines may go to the same pipe. */
const pipeBytes = 4_096;
/** How long a fatal line, or the end of the process, waits for a full pipe. */
const lastWaitMs = 2_000;

/**
 * JSON lines on standard output, or, outside production on a terminal, readable ones; coloured unless NO_COLOR is set.
 * `onDropped` is called for each line that was dropped.
 */
export function createLogger(level: string, isProduction: boolean, onDropped: () => void): Logger {
  const options: LoggerOptions = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: serializeError, req: () => undefined, res: () => undefined },
  };
  if (!process.stdout.isTTY || isProduction) return pino(options, openStandardOutput(onDropped));
  return pino({ ...options, transport: { target: 'pino-pretty', options: { ignore: 'pid,hostname' } } });
}

/**
 * An output that fails, because the disk is full or the reader is gone, disturbs nothing else: unwritten lines are retried with
 * the next one.
 */
function openStandardOutput(onDropped: () => void): DestinationStream {
  let giveUpAtMs = Number.POSITIVE_INFINITY;
  const output = pino.destination({
    dest: 1,
    sync: false,
    maxLength: maxWaitingBytes,
    maxWrite: pipeBytes,
    retryEAGAIN: () => performance.now() < giveUpAtMs,
  });
  const flushSync = output.flushSync.bind(output);
  let isFailing = false;
  // Replaces pino's own handler, after which nothing is ever written again once a reader has gone.
  output.removeAllListeners('error').on('error', () => {
    isFailing = true;
  });
  output.on('write', () => {
    isFailing = false;
  });
  output.on('drop', onDropped);
  // Called for a fatal line and at the end of the process. pino's own retries until it succeeds, and blocks everything else
  // meanwhile.
  output.flushSync = () => {
    if (isFailing) return;
    giveUpAtMs = performance.now() + lastWaitMs;
    try {
      flushSync();
    } catch {
      isFailing = true;
    } finally {
      giveUpAtMs = Number.POSITIVE_INFINITY;
    }
  };
  return output;
}

/** For a process whose standard output belongs to its user. */
export function createSilentLogger(): Logger {
  return pino({ level: 'silent' });
}

/** Leaves out other fields of an error and its causes: they may hold a statement's arguments or a URL. */
function serializeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  return { type: error.name, message: error.message, stack: error.stack };
}
