/** The example gateway as its reader runs it: compiled against the built package, in a process of its own. */

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import type { Environment } from '../../src/settings.ts';
import { runCommand } from './process.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const startTimeoutMs = 20_000;

export interface ExampleGateway {
  readonly origin: string;
  readonly output: () => string;
  readonly child: ChildProcess;
}

/** Compiles the example in an empty folder, like a project that has installed the package. Throws with the compiler's output. */
export async function compileExampleGateway(folder: string): Promise<void> {
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(root, join(folder, 'node_modules/provara-vault'));
  for (const name of ['@types', 'undici-types']) {
    symlinkSync(join(root, 'node_modules', name), join(folder, 'node_modules', name));
  }
  symlinkSync(join(root, 'examples/gateway/gateway.ts'), join(folder, 'gateway.ts'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  const options = [
    '--strict',
    '--preserveSymlinks',
    '--target',
    'es2023',
    '--lib',
    'es2023',
    '--module',
    'nodenext',
    '--types',
    'node',
  ];
  const compiler = [join(root, 'node_modules/typescript/bin/tsc'), ...options, 'gateway.ts'];
  const { code, stdout } = await runCommand(process.execPath, compiler, {}, folder);
  if (code !== 0) throw new Error(stdout);
}

/** Starts the result of {@link compileExampleGateway}, and waits until it listens. */
export async function startExampleGateway(folder: string, environment: Environment): Promise<ExampleGateway> {
  const env = { PATH: process.env.PATH, PORT: '0', ...environment };
  const child = spawn(process.execPath, ['gateway.js'], { env, cwd: folder });
  onTestFinished(() => void child.kill('SIGKILL'));
  let output = '';
  const origin = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`It did not listen in time:\n${output}`)), startTimeoutMs);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output += chunk.toString('utf8');
        const [, found] = /listening at (\S+)/.exec(output) ?? [];
        if (found === undefined) return;
        clearTimeout(timer);
        resolve(found);
      });
    }
    child.once('exit', (code) => reject(new Error(`It ended with ${code}:\n${output}`)));
  });
  return { origin, output: () => output, child };
}
