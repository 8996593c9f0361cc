/** `/metrics` counts what happens, names no secret, and is what docs/metrics.md, the dashboard and the alert rules say. */

import { readFileSync } from 'node:fs';
import { parser } from '@prometheus-io/lezer-promql';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { gatewaySeal } from '../support/gateway.ts';
import { keyA, keyB, keyIdA, keyIdB, startVault, type TestVault, temporaryDatabase } from '../support/vault.ts';

const patience = { timeout: 3_000 };
const passphrase = 'correct horse battery staple sample';

/** Values by series, as the text has them: `name{label="value"}`. */
async function scrape({ admin }: Pick<TestVault, 'admin'>): Promise<Map<string, number>> {
  const { status, headers, body } = await admin('GET', '/metrics');
  expect(status).toBe(200);
  expect(headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  const samples = String(body)
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(samples.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

function requests(samples: ReadonlyMap<string, number>, method: string, route: string, status: number): number | undefined {
  const labels = `method="${method}",route="${route}",status="${status}"`;
  return samples.get(`provara_vault_http_request_duration_seconds_count{${labels}}`);
}

describe('/metrics', () => {
  it('counts requests by route pattern, decrypts by key and outcome, rows and seals by key', async () => {
    const { url, gateway } = await temporaryDatabase();
    const vault = await startVault(url);
    for (const name of ['one', 'two'])
      await vault.gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: 'sample-key-1' });
    const { body } = await vault.gateway('POST', '/v1/encrypt', { plaintext: 'sample' });
    for (const name of ['one', 'one', 'two']) await vault.gateway('POST', '/v1/api-keys/decrypt', { name });
    await vault.gateway('POST', '/v1/decrypt', { ciphertext: body.ciphertext });
    await vault.gateway('POST', '/v1/decrypt', { ciphertext: body.ciphertext, context: 'another' });
    await gateway.run("UPDATE api_keys SET auth_tag = lower(hex(zeroblob(16))), key_id_tag = NULL WHERE name = 'two'");
    await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'two' });
    await vault.gateway('GET', '/no/such/path');

    const samples = await scrape(vault);
    expect(requests(samples, 'POST', '/v1/api-keys/decrypt', 200)).toBe(3);
    expect(requests(samples, 'POST', '/v1/api-keys/decrypt', 422)).toBe(1);
    expect(requests(samples, 'other', 'none', 404)).toBe(1);
    const decrypts = (key: string, outcome: string) =>
      samples.get(`provara_vault_decrypts_total{key_id="${key}",outcome="${outcome}"}`);
    expect(decrypts(keyIdA, 'opened')).toBe(4);
    expect(decrypts(keyIdA, 'failed')).toBe(1);
    expect(decrypts('other', 'failed')).toBe(1);
    expect(decrypts(keyIdA, 'key_missing')).toBe(0);
    expect(samples.get(`provara_vault_rows{key_id="${keyIdA}"}`)).toBe(1);
    expect(samples.get('provara_vault_rows_unopened')).toBe(1);
    expect(samples.get(`provara_vault_master_key_seals{key_id="${keyIdA}"}`)).toBe(3);
    expect(samples.get('provara_vault_ready')).toBe(1);
  });

  it('says how old the active key is, whether it is due, and how a rotation stands', async () => {
    const { url, gateway } = await temporaryDatabase();
    const vault = await startVault(url, { PROVARA_MASTER_KEY_NEW: keyB, VAULT_ROTATION_DUE_DAYS: '30' });
    await vault.gateway('POST', '/v1/api-keys', { name: 'one', provider: 'openai', value: 'sample-key-1' });
    await gateway.run(`UPDATE vault_master_keys SET activated_at = unixepoch() - 31 * 86400 WHERE key_id = '${keyIdA}'`);
    const before = await scrape(vault);
    const age = before.get(`provara_vault_master_key_age_seconds{key_id="${keyIdA}",state="active"}`) ?? 0;
    expect(Math.floor(age / 86_400)).toBe(31);
    expect(before.get(`provara_vault_master_key_rotation_due{key_id="${keyIdA}"}`)).toBe(1);
    expect(before.get('provara_vault_rotation_state{state="completed"}')).toBe(0);

    expect((await vault.admin('POST', '/admin/rotate/execute')).status).toBe(200);
    const after = await scrape(vault);
    expect(after.get(`provara_vault_master_key_rotation_due{key_id="${keyIdB}"}`)).toBe(0);
    expect(after.has(`provara_vault_master_key_age_seconds{key_id="${keyIdA}",state="retired"}`)).toBe(true);
    expect(after.get('provara_vault_rotation_state{state="completed"}')).toBe(1);
    expect(after.get('provara_vault_rotation_running')).toBe(0);
    expect(after.get(`provara_vault_master_key_seals{key_id="${keyIdB}"}`)).toBe(1);
  });

  it('does not say that no row fails before rows have been counted', async () => {
    const vault = await startVault((await temporaryDatabase()).url);
    const { latestSurvey } = vault.services;
    const get = latestSurvey.get.bind(latestSurvey);
    latestSurvey.get = async () => null;
    expect((await scrape(vault)).has('provara_vault_rows_unopened')).toBe(false);
    latestSurvey.get = get;
    expect((await scrape(vault)).get('provara_vault_rows_unopened')).toBe(0);
  });

  it('counts what a key has sealed across restarts', async () => {
    const { url } = await temporaryDatabase();
    const first = await startVault(url);
    await first.gateway('POST', '/v1/encrypt', { items: [{ plaintext: 'one' }, { plaintext: 'two' }] });
    await first.close();
    const second = await startVault(url);
    await second.gateway('POST', '/v1/encrypt', { plaintext: 'three' });
    expect((await scrape(second)).get(`provara_vault_master_key_seals{key_id="${keyIdA}"}`)).toBe(3);
  });

  it('calls a passphrase a passphrase, wherever a key id stands', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(passphrase, { id: 'row-1', name: 'one', value: 'sample-key-1' });
    const vault = await startVault(url, { PROVARA_MASTER_KEY: passphrase, PROVARA_MASTER_KEY_OLD: keyA });
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'one' })).status).toBe(200);
    const samples = await scrape(vault);
    expect(samples.get('provara_vault_decrypts_total{key_id="passphrase",outcome="opened"}')).toBe(1);
    expect(samples.get('provara_vault_rows{key_id="passphrase"}')).toBe(1);
    expect([...samples.keys()].join()).not.toContain(parseMasterKey(passphrase).id);
  });

  it('says that a master key is missing: ready is 0, and decrypts count as such', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyB, { id: 'row-1', name: 'one', value: 'sample-key-1' });
    await (await startVault(url, { PROVARA_MASTER_KEY: keyB })).close();
    const vault = await startVault(url);
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'one' })).status).toBe(503);
    const samples = await scrape(vault);
    expect(samples.get('provara_vault_ready')).toBe(0);
    expect(samples.get('provara_vault_decrypts_total{key_id="other",outcome="key_missing"}')).toBe(1);
    // How many rows a key opens that is not here, nobody can tell.
    expect([...samples.keys()].filter((series) => series.startsWith('provara_vault_rows{'))).toEqual([]);
    expect(samples.get('provara_vault_rows_unopened')).toBe(1);
  });

  it('counts attempts on the database that are made again, and operations that it fails', async () => {
    const { url, gateway } = await temporaryDatabase();
    const vault = await startVault(url);
    const lock = await gateway.client.transaction('write');
    const stored = vault.gateway('POST', '/v1/api-keys', { name: 'one', provider: 'openai', value: 'sample-key-1' });
    await expect.poll(async () => (await scrape(vault)).get('provara_vault_storage_retries_total'), patience).toBeGreaterThan(0);
    expect((await scrape(vault)).get('provara_vault_storage_failures_total')).toBe(0);
    await lock.rollback();
    expect((await stored).status).toBe(201);
    await gateway.run('DROP TABLE api_keys');
    await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'one' });
    expect((await scrape(vault)).get('provara_vault_storage_failures_total')).toBeGreaterThan(0);
  });

  it('counts each call that was refused because the audit log did not take its records, and no use of a key then', async () => {
    const { url, gateway } = await temporaryDatabase();
    await gateway.insert(keyA, { id: 'one' });
    const rewrapped = gatewaySeal(keyA, 'sample');
    const vault = await startVault(url, { VAULT_AUDIT_LOG: '/dev/full' });
    const before = (await scrape(vault)).get('provara_vault_audit_failures_total') ?? 0;
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt', { name: 'one' })).status).toBe(503);
    expect((await vault.gateway('POST', '/v1/api-keys/decrypt-all', {})).status).toBe(503);
    expect((await vault.gateway('POST', '/v1/decrypt', rewrapped)).status).toBe(503);
    const samples = await scrape(vault);
    expect(samples.get('provara_vault_audit_failures_total')).toBe(before + 3);
    expect(samples.get(`provara_vault_decrypts_total{key_id="${keyIdA}",outcome="opened"}`)).toBe(0);
    await vault.close();
    expect(await gateway.rows()).toMatchObject([{ last_used_at: null }]);
  });

  it('is what docs/metrics.md lists, and holds all that the dashboard and the alert rules name', async () => {
    const { url } = await temporaryDatabase();
    const vault = await startVault(url);
    await vault.gateway('GET', '/health');
    const text = String((await vault.admin('GET', '/metrics')).body);
    const types = [...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`);
    const documented = [...read('docs/metrics.md').matchAll(/^\| `(\w+)` \| (\w+) \|/gm)].map(
      ([, name, type]) => `${name} ${type}`,
    );
    expect(documented.sort()).toEqual(types.filter((each) => each.startsWith('provara_vault_')).sort());

    const series = new Set([...text.matchAll(/^(\w+)[{ ]/gm)].map(([, name]) => name));
    const expressions = [...alertExpressions(), ...dashboardExpressions()];
    expect(expressions.length).toBeGreaterThan(20);
    for (const expression of expressions) expect(syntaxErrorIn(expression)).toBeNull();
    const named = expressions.flatMap((expression) => expression.match(/\b(provara_vault|nodejs|process)_\w+/g) ?? [expression]);
    expect(named.filter((name) => !series.has(name))).toEqual([]);
  });
});

function read(path: string): string {
  return readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
}

/** Where PromQL does not parse, or null. Grafana fills its own variable in. */
function syntaxErrorIn(expression: string): string | null {
  const text = expression.replaceAll('$__rate_interval', '5m');
  let error: string | null = null;
  parser.parse(text).iterate({
    enter: ({ type, from }) => {
      if (type.isError) error ??= `${text} at ${from}`;
    },
  });
  return error;
}

function alertExpressions(): string[] {
  const { groups } = parse(read('deploy/prometheus/alerts.yaml')) as { groups: { rules: { expr: string }[] }[] };
  return groups.flatMap(({ rules }) => rules.map(({ expr }) => expr));
}

function dashboardExpressions(): string[] {
  const { panels } = JSON.parse(read('deploy/grafana/dashboard.json')) as { panels: { targets: { expr: string }[] }[] };
  return panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
}
