// Compiles src to dist, and bundles each program there into few files: a process that opens hundreds of files starts slowly.
// Without the compiler, as in an image with production dependencies only, the existing dist is kept.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const compiler = path('node_modules/typescript/bin/tsc');

if (existsSync(compiler)) {
  const { status } = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.json'], { cwd: path(''), stdio: 'inherit' });
  if (status === 0) await bundle();
  process.exitCode = status ?? 1;
} else if (!existsSync(path('dist/server.js'))) {
  process.stderr.write('There is neither a built dist nor a compiler here: run `npm ci` first.\n');
  process.exitCode = 1;
}

async function bundle() {
  const { build } = await import('rolldown');
  const threads = ['rotation', 'survey', 'snapshot', 'page', 'text'].map((name) => `threads/${name}-thread`);
  const programs = ['server', 'cli', ...threads];
  /** Modules that the tests' programs import; these are started by the hundred. */
  const parts = ['services', 'config', 'logging', 'store/database'];
  await build({
    input: Object.fromEntries([...programs, ...parts].map((name) => [name, path(`src/${name}.ts`)])),
    // Packages that load their own files by location: native code, the log's threads, and a page.
    external: ['libsql', 'libsql/promise', 'pino', 'pino-pretty', '@fastify/swagger-ui'],
    platform: 'node',
    logLevel: 'warn',
    output: { dir: path('dist'), format: 'esm', sourcemap: true, chunkFileNames: '[name].bundle.js' },
  });
}
