// Follows the Dockerfile without an engine: copies what it copies, runs what it runs, and leaves each stage's /app in a folder.
// Usage: node scripts/image.mjs <empty folder>. Prints the folder of the last stage.
import { execSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [, , target] = process.argv;
if (target === undefined) throw new Error('Usage: node scripts/image.mjs <empty folder>');

const instructions = readFileSync(join(root, 'Dockerfile'), 'utf8')
  .replaceAll(/\\\n\s*/g, '')
  .split('\n')
  .filter((line) => /^[A-Z]+ /.test(line))
  .map((line) => [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1).trim()]);

const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n');
const stages = new Map();
let stage = '';
let folder = '';
let environment = {};

function copyFromContext(sources, destination) {
  for (const source of sources) {
    const allowed = ignored.some(
      (line) => line.startsWith('!') && (source === line.slice(1) || source.startsWith(`${line.slice(1)}/`)),
    );
    if (!allowed) throw new Error(`.dockerignore keeps ${source} out of the build context`);
    copy(join(root, source), destination, source);
  }
}

function copy(from, destination, source) {
  const isFolder = destination.endsWith('/');
  const to = resolve(folder, isFolder ? join(destination, basename(source)) : destination);
  cpSync(from, to, { recursive: true });
}

const run = {
  FROM(text) {
    stage = text.split(' AS ')[1] ?? 'final';
    folder = join(resolve(target), stage);
    mkdirSync(folder, { recursive: true });
    stages.set(stage, folder);
    environment = {};
  },
  ENV(text) {
    const [name, value] = text.split('=');
    environment[name] = value;
  },
  COPY(text) {
    const words = text.split(' ');
    const [, from] = /^--from=(\w+)$/.exec(words[0]) ?? [];
    const destination = words.at(-1);
    if (from === undefined) copyFromContext(words.slice(0, -1), destination);
    else copy(join(stages.get(from), words[1].replace(/^\/app\//, '')), destination, words[1]);
  },
  RUN(text) {
    const { PATH, HOME } = process.env;
    const npm = Object.fromEntries(Object.entries(process.env).filter(([name]) => /^npm_config_(registry|cache)$/i.test(name)));
    execSync(text, {
      cwd: folder,
      env: { PATH, HOME, ...npm, ...environment },
      stdio: ['ignore', process.stderr, process.stderr],
    });
  },
};

for (const [name, text] of instructions) run[name]?.(text);
process.stdout.write(`${folder}\n`);
