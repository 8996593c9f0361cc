/** The service and the command line as their users run them: real processes of the built code, each with its own environment. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import type { Environment } from '../../src/settings.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const startTimeoutMs = 20_000;

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningCommand {
  readonly child: ChildProcess;
  readonly ended: Promise<CommandResult>;
}

/** Runs a command with only this environment, as another user if one is given. */
export function startCommand(
  file: string,
  args: readonly string[],
  environment: Environment,
  cwd: string,
  uid?: number,
): RunningCommand {
  const options = { env: bare(environment), cwd, timeout: 60_000, ...(uid !== undefined && { uid }) };
  let end: (result: CommandResult) => void = () => undefined;
  const ended = new Promise<CommandResult>((resolve) => {
    end = resolve;
  });
  const child = execFile(file, args, options, (error, stdout, stderr) => {
    end({ code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1, stdout, stderr });
  });
  return { child, ended };
}

/** As {@link startCommand}, but waits for the end. */
export function runCommand(...given: Parameters<typeof startCommand>): Promise<CommandResult> {
  return startCommand(...given).ended;
}

export function startCli(args: readonly string[], environment: Environment, cwd = root): RunningCommand {
  return startCommand(process.execPath, [join(root, 'dist/cli.js'), ...args], environment, cwd);
}

export function runCli(args: readonly string[], environment: Environment, cwd = root): Promise<CommandResult> {
  return startCli(args, environment, cwd).ended;
}

/** Runs the service to its end, for starts that must fail. */
export function runServer(environment: Environment, cwd = root, uid?: number): Promise<CommandResult> {
  return runCommand(process.execPath, [join(root, 'dist/server.js')], environment, cwd, uid);
}

export interface ServerProcess {
  readonly origin: string;
  readonly child: ChildProcess;
  /** Everything written so far, on both streams. */
  readonly output: () => string;
  /** Sends the signal, and resolves with the exit code once the process has ended; null if a signal ended it. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<number | null>;
}

/** Starts the service and waits until it listens. Rejects with its output if it ends instead. */
export async function startServer(environment: Environment, cwd = root, app = root): Promise<ServerProcess> {
  const child = spawn(process.execPath, [join(app, 'dist/server.js')], { env: bare(environment), cwd });
  let output = '';
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  const origin = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`It did not listen in time:\n${output}`)), startTimeoutMs);
    const collect = (chunk: Buffer): void => {
      output += chunk.toString('utf8');
      const [, found] = /listening at (http:\/\/[^\s"]+)/.exec(output) ?? [];
      if (found === undefined) return;
      clearTimeout(timer);
      resolve(found);
    };
    child.stdout?.on('data', collect);
    child.stderr?.on('data', collect);
    child.once('exit', (code) => {
      clearTimeout(timer);
      reject(new Error(`It ended with ${code}:\n${output}`));
    });
  });
  const stop = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> => {
    child.kill(signal);
    return ended;
  };
  onTestFinished(async () => {
    await stop('SIGKILL');
  });
  return { origin, child, output: () => output, stop };
}

function bare(environment: Environment): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, ...environment };
}
