// Prints what runs in production as a CycloneDX SBOM. `npm sbom --omit dev` leaves out every package that development also
// depends on, so it is run on a lock file without development dependencies.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const read = (name) => JSON.parse(readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'));
const { devDependencies: _tools, ...manifest } = read('package.json');
const lock = read('package-lock.json');
const production = Object.entries(lock.packages).filter(([, { dev }]) => dev !== true);
lock.packages = { ...Object.fromEntries(production), '': { ...lock.packages[''], devDependencies: undefined } };

const temporary = mkdtempSync(join(tmpdir(), 'provara-vault-'));
// npm names the SBOM after the folder.
const folder = join(temporary, manifest.name);
try {
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(lock));
  const options = ['--package-lock-only', '--sbom-format', 'cyclonedx', '--sbom-type', 'application'];
  process.exitCode = spawnSync('npm', ['sbom', ...options], { cwd: folder, stdio: 'inherit' }).status ?? 1;
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
