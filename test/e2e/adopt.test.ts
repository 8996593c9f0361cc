/** docs/adopt.md, step by step on a live database and back from each: gateway and vault read every row that they are said to. */

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { VaultClient } from '../../src/client/index.ts';
import { connectorTableSql, type GatewayDatabase, type GatewayRow, gatewayOpen } from '../support/gateway.ts';
import { runCli, runCommand } from '../support/process.ts';
import { gatewayToken, keyB, keyIdB, startVault, type TestVault, temporaryDatabase, temporaryFolder } from '../support/vault.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const guide = readFileSync(join(root, 'docs/adopt.md'), 'utf8');
const writerToken = 'sample-writer-token';
const connectors = 'context_connector_credentials';
/** As many gateways have it. */
const passphrase = 'sample passphrase of a gateway';
const covered = { VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}` };
const settings = { ...covered, PROVARA_MASTER_KEY: passphrase, VAULT_WRITER_TOKENS: `dashboard:${writerToken}` };

let url = '';
let database: GatewayDatabase;

/** The table that the team has: two tenants, the null tenant, and another table under the same key. */
beforeEach(async () => {
  ({ url, gateway: database } = await temporaryDatabase());
  await database.run(connectorTableSql);
  await database.insert(passphrase, { id: 'acme-openai', tenantId: 'acme', name: 'OPENAI_API_KEY', value: 'sample-acme' });
  await database.insert(passphrase, { id: 'beta-openai', tenantId: 'beta', name: 'OPENAI_API_KEY', value: 'sample-beta' });
  await database.insert(passphrase, { id: 'own', name: 'OPENAI_API_KEY', value: 'sample-own' });
  await database.insert(passphrase, { id: 'drive', tenantId: 'acme', value: 'sample-drive' }, connectors);
});

function clientFor({ origin }: TestVault, token = gatewayToken): VaultClient {
  const client = new VaultClient({ url: origin, token });
  onTestFinished(() => client.close());
  return client;
}

/** What the gateway's own code makes of the table: each id with its value, or null where it does not open. */
async function asTheGatewayReads(key = passphrase): Promise<Record<string, string | null>> {
  const entries = (await database.rows()).map((row) => {
    try {
      return [String(row['id']), gatewayOpen(key, row as unknown as GatewayRow)] as const;
    } catch {
      return [String(row['id']), null] as const;
    }
  });
  return Object.fromEntries(entries);
}

async function asTheVaultReads(vault: VaultClient): Promise<Record<string, string | null>> {
  const found: Record<string, string | null> = {};
  for await (const { tenant_id } of vault.eachTenant()) {
    for await (const { id, value } of vault.eachDecryptedKey({ tenant_id })) found[id] = value ?? null;
  }
  return found;
}

/** The way back of step 4: the gateway's old code encrypts every row once more. */
async function encryptAsBefore(vault: VaultClient): Promise<void> {
  for (const [id, value] of Object.entries(await asTheVaultReads(vault))) await database.update(passphrase, id, value ?? '');
}

async function rowsInFormat2(): Promise<number> {
  const [, statement = ''] = /`(SELECT count[^`]*)`/.exec(guide) ?? [];
  const { rows } = await database.client.execute(statement);
  return Number(Object.values(rows[0] ?? {})[0]);
}

async function connector(): Promise<{ encrypted_value: string; iv: string; auth_tag: string }> {
  const [row] = (await database.rows(connectors)) as unknown as GatewayRow[];
  if (row === undefined) throw new Error('There is no connector.');
  const { encrypted_value, iv, auth_tag } = row;
  return { encrypted_value, iv, auth_tag };
}

const atFirst = { 'acme-openai': 'sample-acme', 'beta-openai': 'sample-beta', own: 'sample-own' };

it('step 1: the command line reads what the gateway wrote, names the forgotten table, and changes nothing', async () => {
  const before = [await database.rows(), await database.rows(connectors)];
  const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY_OLD: passphrase, PROVARA_MASTER_KEY_NEW: keyB };
  const forgotten = await runCli(['rotate', '--dry-run'], environment);
  expect(forgotten.code).toBe(3);
  expect(forgotten.stderr).toContain(connectors);
  const { stdout } = await runCli(['rotate', '--dry-run'], { ...environment, ...covered });
  expect(stdout).toContain('DRY RUN — scanned 4 row(s). Every row decrypts cleanly with the --old key.');
  expect([await database.rows(), await database.rows(connectors)]).toEqual(before);
  const tables = await database.client.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'vault%'");
  expect(tables.rows).toEqual([]);
});

describe('steps 2 and 3, the vault beside the gateway', () => {
  it('both read every row, and what the gateway goes on writing', async () => {
    const vault = await startVault(url, settings);
    expect((await vault.admin('POST', '/admin/verify')).body).toMatchObject({ rows_scanned: 4, rows_failed: 0 });
    const client = clientFor(vault);
    await database.insert(passphrase, { id: 'late', tenantId: 'beta', value: 'sample-late' });
    await database.update(passphrase, 'own', 'sample-own-2');
    const now = { ...atFirst, late: 'sample-late', own: 'sample-own-2' };
    expect(await asTheVaultReads(client)).toEqual(now);
    expect(await asTheGatewayReads()).toEqual(now);
    expect((await client.decrypt(await connector())).plaintext).toBe('sample-drive');
    await vault.close();
    expect(await asTheGatewayReads()).toEqual(now);
    await database.insert(passphrase, { id: 'after', value: 'sample-after' });
    expect(await asTheGatewayReads()).toEqual({ ...now, after: 'sample-after' });
  });

  it('the guide’s own lines fill the registry of all tenants, and one bad row does not hide the rest', async () => {
    const vault = await startVault(url, settings);
    await database.insert(keyB, { id: 'foreign', tenantId: 'beta', name: 'FOREIGN' });
    const folder = temporaryFolder();
    const [, lines = ''] = /```js\n([\s\S]*?)```/.exec(guide) ?? [];
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(root, join(folder, 'node_modules/provara-vault'));
    writeFileSync(join(folder, 'registry.mjs'), lines);
    const environment = { VAULT_URL: vault.origin, VAULT_TOKEN: gatewayToken };
    const { code, stdout, stderr } = await runCommand(process.execPath, ['registry.mjs'], environment, folder);
    expect([code, stdout]).toEqual([0, '3\n']);
    expect(stderr).toMatch(/^FOREIGN of beta: /);
  });
});

describe('step 4, the writes', () => {
  it('go through the vault, whose rows the gateway’s own code does not open', async () => {
    const vault = await startVault(url, settings);
    const dashboard = clientFor(vault, writerToken);
    await dashboard.storeKey({ tenant_id: 'acme', name: 'OPENAI_API_KEY', provider: 'openai', value: 'sample-acme-2' });
    expect((await dashboard.listKeys({ tenant_id: 'acme' })).keys).toMatchObject([{ id: 'acme-openai' }]);
    await expect(dashboard.decryptKey({ tenant_id: 'acme', name: 'OPENAI_API_KEY' })).rejects.toMatchObject({ status: 403 });
    expect(await asTheVaultReads(clientFor(vault))).toEqual({ ...atFirst, 'acme-openai': 'sample-acme-2' });
    expect(await asTheGatewayReads()).toEqual({ ...atFirst, 'acme-openai': null });
    expect(await rowsInFormat2()).toBe(1);
  });

  it('and back: once the gateway has encrypted the rows anew, it reads them all, and so does the vault', async () => {
    const vault = await startVault(url, settings);
    const client = clientFor(vault);
    await client.storeKey({ tenant_id: 'acme', name: 'OPENAI_API_KEY', provider: 'openai', value: 'sample-acme-2' });
    const { key } = await client.storeKey({ name: 'NEW', provider: 'openai', value: 'sample-new' });
    await encryptAsBefore(client);
    const now = { ...atFirst, 'acme-openai': 'sample-acme-2', [key.id]: 'sample-new' };
    expect(await rowsInFormat2()).toBe(0);
    expect(await asTheGatewayReads()).toEqual(now);
    expect(await asTheVaultReads(client)).toEqual(now);
  });
});

describe('step 5, the rotation', () => {
  async function rotated() {
    const both = { ...settings, PROVARA_MASTER_KEY_NEW: keyB };
    const vault = await startVault(url, both);
    const client = clientFor(vault);
    const { body } = await vault.admin('POST', '/admin/rotate/execute', { upgrade_format: true });
    expect(body.rotation).toMatchObject({ state: 'completed', rows_rotated: 4 });
    return { vault, client, from: body.rotation.from_key_id as string, both };
  }

  it('leaves the gateway reading through the vault and nobody with its old key, and format 1 can be refused', async () => {
    const { vault, client, both } = await rotated();
    expect(await asTheVaultReads(client)).toEqual(atFirst);
    expect((await client.decrypt(await connector())).plaintext).toBe('sample-drive');
    expect(Object.values(await asTheGatewayReads())).toEqual([null, null, null]);
    expect(await database.open(keyB, 'drive', connectors)).toBe('sample-drive');
    expect(await rowsInFormat2()).toBe(3);
    await vault.close();
    const strict = clientFor(await startVault(url, { ...both, VAULT_REQUIRE_FORMAT_2: 'true' }));
    expect(await asTheVaultReads(strict)).toEqual(atFirst);
    await database.insert(keyB, { id: 'slipped-in', name: 'SLIPPED_IN' });
    await expect(strict.decryptKey({ name: 'SLIPPED_IN' })).rejects.toMatchObject({ type: 'decrypt_failed' });
  });

  it('takes along, run again, what a program has written to another table with the old key since then', async () => {
    const { vault, client } = await rotated();
    await database.insert(passphrase, { id: 'late', value: 'sample-late' }, connectors);
    const late = (await database.rows(connectors)).find(({ id }) => id === 'late') as unknown as GatewayRow;
    const { encrypted_value, iv, auth_tag } = late;
    expect((await client.decrypt({ encrypted_value, iv, auth_tag })).plaintext).toBe('sample-late');
    const { body } = await vault.admin('POST', '/admin/rotate/execute', { upgrade_format: true });
    expect(body.rotation.state).toBe('completed');
    expect(await database.open(keyB, 'late', connectors)).toBe('sample-late');
  });

  it('and back: rotated to the gateway’s key and encrypted by it, every row is the gateway’s again', async () => {
    const { vault, client, from } = await rotated();
    const back = await vault.admin('POST', '/admin/rotate/execute', { old_key_id: keyIdB, new_key_id: from });
    expect(back.body.rotation).toMatchObject({ state: 'completed', rows_rotated: 4 });
    await encryptAsBefore(client);
    expect(await asTheGatewayReads()).toEqual(atFirst);
    expect(await database.open(passphrase, 'drive', connectors)).toBe('sample-drive');
  });
});
