/** Logs what is listed here and nothing else: no header, no body, no query, and of an error nothing beyond its own text and stack. */

import { type DestinationStream, type Logger, type LoggerOptions, pino } from 'pino';

/** What waits for a standard output that takes nothing; lines that come then are dropped. */
const maxWaitingBytes = 1024 * 1024;
/** What the system writes to a pipe in one piece: the audit's lines may go there too. */
const pipeBytes = 4_096;
/** How long a fatal line, or the end of the process, waits for a pipe that is full. */
const lastWaitMs = 2_000;

/**
 * JSON lines on standard output, or, outside production, readable ones where that is a terminal; coloured unless NO_COLOR is set.
 * `onDropped` is told of each line that was dropped.
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

/** Ends nobody's work where it fails, on a full disk or without a reader: what it did not take it is given again with the next line. */
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
  // In place of pino's own, after which nothing is ever written again once a reader has gone.
  output.removeAllListeners('error').on('error', () => {
    isFailing = true;
  });
  output.on('write', () => {
    isFailing = false;
  });
  output.on('drop', onDropped);
  // It tries until it succeeds, and lets nothing else be done meanwhile: a fatal line, and the end of the process, wait for it.
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

/** Fields of an error and its causes are left out: they may hold a statement's arguments or a URL. */
function serializeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  return { type: error.name, message: error.message, stack: error.stack };
}
