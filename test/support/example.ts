/** The example gateway as its reader runs it: compiled against the built package, in a process of its own. */

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import type { Environment } from '../../src/settings.ts';
import { runCommand } from './process.ts';
import { temporaryFolder } from './vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const startTimeoutMs = 20_000;

export interface ExampleGateway {
  readonly origin: string;
  readonly output: () => string;
  readonly child: ChildProcess;
}

/** Throws with the compiler's words where the example does not compile. */
export async function startExampleGateway(environment: Environment): Promise<ExampleGateway> {
  const folder = temporaryFolder();
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(root, join(folder, 'node_modules/provara-vault'));
  symlinkSync(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'));
  symlinkSync(join(root, 'node_modules/undici-types'), join(folder, 'node_modules/undici-types'));
  symlinkSync(join(root, 'examples/gateway/gateway.ts'), join(folder, 'gateway.ts'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  const options = [
    '--strict',
    '--target',
    'es2023',
    '--lib',
    'es2023',
    '--module',
    'nodenext',
    '--types',
    'node',
    '--preserveSymlinks',
  ];
  const compiler = [join(root, 'node_modules/typescript/bin/tsc'), ...options, 'gateway.ts'];
  const compiled = await runCommand(process.execPath, compiler, {}, folder);
  if (compiled.code !== 0) throw new Error(compiled.stdout);
  return start(folder, environment);
}

async function start(folder: string, environment: Environment): Promise<ExampleGateway> {
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
