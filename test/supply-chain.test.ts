/** What is installed is what was looked at: exact versions, a hash for each package, no script at install, and a list of what runs. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string): string => readFileSync(`${root}/${name}`, 'utf8');

interface LockedPackage {
  readonly version: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
}

const manifest = JSON.parse(read('package.json')) as Readonly<Record<'dependencies' | 'devDependencies', Record<string, string>>>;
const locked = Object.entries((JSON.parse(read('package-lock.json')) as { packages: Record<string, LockedPackage> }).packages)
  .filter(([path]) => path !== '')
  .map(([path, details]) => ({ name: path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length), ...details }));

describe('the dependencies', () => {
  it('have exact versions', () => {
    for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
      expect(version, name).toMatch(/^\d+\.\d+\.\d+(-[\w.]+)?$/);
    }
  });

  it('are locked by their hash, and come from the configured registry alone', () => {
    expect(locked.length).toBeGreaterThan(0);
    for (const { name, integrity, resolved } of locked) {
      expect(integrity, name).toMatch(/^sha512-/);
      expect(resolved ?? 'https://registry.npmjs.org/', name).toMatch(/^https:\/\/registry\.npmjs\.org\//);
    }
  });

  it('run no script when they are installed', () => {
    expect(read('.npmrc').split('\n')).toContain('ignore-scripts=true');
  });
});

describe('npm run sbom', () => {
  it('lists every package that runs in production with its version, and none that does not', () => {
    const text = execFileSync('npm', ['run', '--silent', 'sbom'], { cwd: root, encoding: 'utf8' });
    const { bomFormat, components } = JSON.parse(text) as {
      bomFormat: string;
      components: { name: string; group?: string; version: string }[];
    };
    expect(bomFormat).toBe('CycloneDX');
    const listed = new Set(
      components.map(({ name, group, version }) => `${group === undefined ? name : `${group}/${name}`}@${version}`),
    );
    const all = locked.filter(({ dev }) => dev !== true);
    const needed = all.filter(({ optional }) => optional !== true).map(({ name, version }) => `${name}@${version}`);
    expect(needed.filter((each) => !listed.has(each))).toEqual([]);
    const known = new Set(all.map(({ name, version }) => `${name}@${version}`));
    expect([...listed].filter((each) => !known.has(each))).toEqual([]);
  });
});
