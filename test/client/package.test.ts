/** `provara-vault/client` as a gateway has it: its types stand alone, and importing it loads nothing of the server. */

import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runCommand } from '../support/process.ts';
import { temporaryFolder } from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const specifiers = /(?:^|\s)(?:import|export)\s[^;]*?from\s+'([^']+)'|import\s*\(?\s*'([^']+)'/g;

/** Every module that is loaded from the entry on, packages by name. */
function importGraph(entry: string): { files: Set<string>; packages: Set<string> } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string): void => {
    if (files.has(file)) return;
    files.add(file);
    for (const [, from, bare] of readFileSync(file, 'utf8').matchAll(specifiers)) {
      const specifier = from ?? bare ?? '';
      if (specifier.startsWith('.')) visit(resolve(dirname(file), specifier));
      else packages.add(specifier);
    }
  };
  visit(entry);
  return { files, packages };
}

describe('importing provara-vault/client', () => {
  it('loads the client, its HTTP library and its cache, and nothing of the server', () => {
    const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    const { files, packages } = importGraph(join(root, exports['./client'].default));
    expect([...files].map((file) => dirname(file).slice(root.length)).filter((folder) => folder !== 'dist/client')).toEqual([]);
    expect(files.size).toBeGreaterThan(5);
    const known = new Set(builtinModules.map((name) => `node:${name}`));
    expect([...packages].filter((name) => !known.has(name)).sort()).toEqual(['lru-cache', 'undici']);
    expect(importGraph(join(root, 'dist/http/app.js')).packages).toContain('fastify');
  });

  it('works, and the documents’ own lines compile, in a project that has neither the server’s packages nor their types', async () => {
    const folder = temporaryFolder();
    const installed = join(folder, 'node_modules/provara-vault');
    mkdirSync(installed, { recursive: true });
    cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true });
    cpSync(join(root, 'package.json'), join(installed, 'package.json'));
    for (const name of ['undici', 'lru-cache']) {
      cpSync(join(root, 'node_modules', name), join(folder, 'node_modules', name), { recursive: true });
    }
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    const examples = ['README.md', 'docs/adopt.md'].flatMap((name) =>
      [...readFileSync(join(root, name), 'utf8').matchAll(/```ts\n([\s\S]*?)```/g)].map(([, block = '']) => block),
    );
    expect(examples.length).toBe(4);
    const files = [consumer, ...examples.map(asModule)].map((text, index) => {
      writeFileSync(join(folder, `gateway-${index}.ts`), text);
      return `gateway-${index}.ts`;
    });
    const strict = ['--strict', '--exactOptionalPropertyTypes', '--noEmit', '--target', 'es2023', '--module', 'nodenext'];
    const args = [join(root, 'node_modules/typescript/bin/tsc'), ...strict, '--lib', 'es2023,dom', '--types', '', ...files];
    expect(await runCommand(process.execPath, args, {}, folder)).toEqual({ code: 0, stdout: '', stderr: '' });
    writeFileSync(
      join(folder, 'gateway.mjs'),
      "import { VaultClient } from 'provara-vault/client';\nconsole.log(typeof VaultClient);\n",
    );
    expect((await runCommand(process.execPath, ['gateway.mjs'], {}, folder)).stdout).toBe('function\n');
  });
});

/** A document's lines, among what they take for given. */
function asModule(block: string): string {
  const given = [
    'declare const process: { env: Record<string, string | undefined> };',
    'declare const signal: AbortSignal, encrypted_value: string, iv: string, auth_tag: string;',
    'declare function saveAsBefore(id: string, value: string): Promise<void>;',
  ];
  if (!block.includes('import '))
    given.push("import type { VaultClient } from 'provara-vault/client'; declare const vault: VaultClient;");
  return `${given.join('\n')}\n${block}\nexport {};\n`;
}

/** Each line marked must fail to compile: the types say something. */
const consumer = `
import { VaultClient, VaultNotFoundError, VaultClientError, type DecryptedKey, type StoreKeyBody } from 'provara-vault/client';

const vault = new VaultClient({ url: 'http://vault.internal:4100', token: 'sample', cache: { ttlMs: 30_000, staleMs: 600_000 } });
const body: StoreKeyBody = { tenant_id: 'acme', name: 'K', provider: 'openai', value: 'sample' };
export async function provider(tenant_id: string | null, signal: AbortSignal): Promise<string | null> {
  await vault.storeKey(body, { signal, requestId: 'sample' });
  for await (const { tenant_id, keys } of vault.eachTenant()) {
    for await (const entry of vault.eachDecryptedKey({ tenant_id })) entry.value?.trim();
    keys.toFixed();
  }
  try {
    const key: DecryptedKey = await vault.decryptKey({ tenant_id, name: 'K' }, { signal });
    // @ts-expect-error a value is text
    key.value.toFixed();
    return key.value;
  } catch (error) {
    if (error instanceof VaultNotFoundError) return null;
    if (error instanceof VaultClientError && error.type === 'storage_unavailable') return null;
    throw error;
  }
}
// @ts-expect-error a store needs a value
void vault.storeKey({ name: 'K', provider: 'openai' });
// @ts-expect-error there is no such field
void vault.decryptKey({ tenant: 'acme', name: 'K' });
`;
