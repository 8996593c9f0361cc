// Compiles src to dist when the compiler is installed; an image with production dependencies alone runs the dist it carries.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiler = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));

if (existsSync(compiler)) {
  const { status } = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.json'], { cwd: root, stdio: 'inherit' });
  process.exitCode = status ?? 1;
} else if (!existsSync(new URL('../dist/server.js', import.meta.url))) {
  process.stderr.write('There is neither a built dist nor a compiler here: run `npm ci` first.\n');
  process.exitCode = 1;
}
