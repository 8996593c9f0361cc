/** The gate lets pass exactly the tables that it should, and a refused one is as it was, row by row. */

import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { sealRow } from '../../src/crypto/row.ts';
import { VaultError } from '../../src/errors.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { buildServices } from '../../src/services.ts';
import { connectorTableSql, type GatewayDatabase, gatewaySeal, insertStatement } from '../support/gateway.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, temporaryDatabase } from '../support/vault.ts';

const unknownKey = 'e5'.repeat(32);
const keys = { old: keyA, new: keyB, other: keyC, unknown: unknownKey };
/** Fewer where a statement is a call over the network: what the gate decides is the same there. */
const numRuns = process.env.VAULT_TEST_ENGINE === 'server' ? 25 : 150;
const connectors = 'context_connector_credentials';

const someRow = fc.record({
  key: fc.constantFrom<keyof typeof keys>('old', 'old', 'old', 'new', 'other', 'unknown'),
  table: fc.constantFrom('api_keys', 'api_keys', connectors),
  isFormat2: fc.boolean(),
  damage: fc.constantFrom('none', 'none', 'none', 'none', 'tag', 'no hex'),
  isSkipped: fc.boolean(),
  tenantId: fc.constantFrom(null, 'tenant-1'),
});
type SomeRow = typeof someRow extends fc.Arbitrary<infer Row> ? Row : never;

/** Mostly tables that may pass, some that may not. */
const someTable = fc.oneof(
  fc.array(someRow, { maxLength: 12 }),
  fc.array(
    someRow.map((row) => ({ ...row, key: row.key === 'new' ? row.key : ('old' as const), damage: 'none' as const })),
    { maxLength: 12 },
  ),
);
const someOptions = fc.record({ upgradeFormat: fc.boolean(), atomicRows: fc.constantFrom('0', '5', '10000') });

const isGood = ({ key, damage, isSkipped }: SomeRow): boolean =>
  isSkipped || (damage === 'none' && (key === 'old' || key === 'new'));

function insertOf(row: SomeRow, index: number) {
  const [id, name, provider] = [`row-${index}`, `K${index}`, 'openai'];
  const binding = { table: 'api_keys', tenantId: row.tenantId, name, provider };
  const isFormat2 = row.isFormat2 && row.table === 'api_keys';
  const format2 = sealRow(parseMasterKey(keys[row.key]), binding, Buffer.from(`sample-${index}`));
  const format1 = gatewaySeal(keys[row.key], `sample-${index}`);
  const sealed = isFormat2
    ? { encrypted_value: format2.encryptedValue, iv: format2.iv, auth_tag: format2.authTag }
    : { ...format1 };
  if (row.damage === 'tag') sealed.auth_tag = createHash('md5').update(sealed.auth_tag).digest('hex');
  if (row.damage === 'no hex') sealed.iv = `zz${sealed.iv.slice(2)}`;
  const times = { created_at: 1, updated_at: 1 };
  return insertStatement({ id, name, provider, tenant_id: row.tenantId, ...sealed, ...times }, row.table);
}

/** Makes the tables what the property asks for, and forgets every rotation. */
async function fill(gateway: GatewayDatabase, rows: readonly SomeRow[]): Promise<void> {
  const tables = (await gateway.rows('sqlite_schema')).map(({ name }) => String(name));
  const forgotten = ['vault_active_key', 'vault_master_keys', 'vault_rotations'].filter((name) => tables.includes(name));
  const deletes = ['api_keys', connectors, ...forgotten].map((table) => `DELETE FROM ${table}`);
  await gateway.client.batch([...deletes, ...rows.map(insertOf)], 'write');
}

async function allRows(gateway: GatewayDatabase): Promise<Record<string, unknown>[]> {
  const own = (await gateway.rows()).map(({ key_id, key_id_tag, last_used_at, ...row }) => row);
  return [...own, ...(await gateway.rows(connectors))];
}

interface Options {
  readonly upgradeFormat: boolean;
  readonly atomicRows: string;
}

async function rotate(url: string, rows: readonly SomeRow[], { upgradeFormat, atomicRows }: Options) {
  const settings = {
    DATABASE_URL: url,
    PROVARA_MASTER_KEY: keyA,
    PROVARA_MASTER_KEY_NEW: keyB,
    PROVARA_MASTER_KEY_OLD: keyC,
    VAULT_ENCRYPTED_TABLES: `api_keys,${connectors}`,
    VAULT_ROTATION_ATOMIC_ROWS: atomicRows,
  };
  const services = buildServices(readCliConfig(settings), createSilentLogger());
  await services.migrate();
  const skipIds = rows.flatMap(({ isSkipped, table }, index) => (isSkipped ? [`${table}:row-${index}`] : []));
  const started = services.rotator.start({ oldKeyId: keyIdA, newKeyId: keyIdB, skipIds, upgradeFormat });
  const outcome: unknown = await started.then(({ done }) => done).catch((error: unknown) => error);
  const survey = await services.verify();
  await services.close();
  return { outcome, survey };
}

function expectRefused(outcome: unknown, rows: readonly SomeRow[]): void {
  expect(outcome).toBeInstanceOf(VaultError);
  const { code, details } = outcome as VaultError;
  expect([code, details?.rows_failed]).toEqual(['decrypt_gate_failed', rows.filter((row) => !isGood(row)).length]);
}

describe('any table', () => {
  it('is rotated whole or left as it was', { timeout: 240_000 }, async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.run(connectorTableSql);
    const property = fc.asyncProperty(someTable, someOptions, async (rows, options) => {
      await fill(gateway, rows);
      const before = await allRows(gateway);
      const { outcome, survey } = await rotate(url, rows, options);
      const after = await allRows(gateway);
      if (!rows.every(isGood)) {
        expectRefused(outcome, rows);
        expect(after).toEqual(before);
        return;
      }
      const rowsSkipped = rows.filter(({ isSkipped }) => isSkipped).length;
      expect(outcome).toMatchObject({ state: 'completed', rowsScanned: rows.length, rowsSkipped });
      const isOfNoKey = ({ key, damage }: SomeRow): boolean => key === 'unknown' || damage !== 'none';
      expect(survey.rowsFailed).toBe(rows.filter((row) => row.isSkipped && isOfNoKey(row)).length);
      for (const [index, { isSkipped, table }] of rows.entries()) {
        const [original, found] = [before, after].map((all) => all.find(({ id }) => id === `row-${index}`));
        if (isSkipped) expect(found).toEqual(original);
        const isUpgraded = options.upgradeFormat && table === 'api_keys' && !isSkipped;
        expect(String(found?.iv).length).toBe(isUpgraded ? 24 : String(original?.iv).length);
      }
    });
    await fc.assert(property, { numRuns });
  });
});
