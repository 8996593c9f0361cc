/** Logs what is listed here and nothing else: no header, no body, no query, and of an error nothing beyond its own text and stack. */

import { type Logger, pino } from 'pino';

/** JSON lines on standard output, or, outside production, readable ones where that is a terminal; coloured unless NO_COLOR is set. */
export function createLogger(level: string, isProduction: boolean): Logger {
  const transport =
    process.stdout.isTTY && !isProduction ? { target: 'pino-pretty', options: { ignore: 'pid,hostname' } } : undefined;
  return pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: serializeError, req: () => undefined, res: () => undefined },
    ...(transport && { transport }),
  });
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
