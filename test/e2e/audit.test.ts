/** The audit of a real process: moved away while it is written, killed, and on the standard output that others write to as well. */

import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClient } from '@libsql/client';
import { describe, expect, it } from 'vitest';
import { runCli, startServer } from '../support/process.ts';
import { caller, environmentFor, gatewayToken, keyB, temporaryFolder } from '../support/vault.ts';

async function start(log: (folder: string) => string) {
  const folder = temporaryFolder();
  const settings = { VAULT_AUDIT_LOG: log(folder), PROVARA_MASTER_KEY_NEW: keyB, NODE_ENV: 'test' };
  const environment = {
    ...environmentFor(`file:${join(folder, 'vault.db')}`, settings),
    NODE_OPTIONS: '--max-semi-space-size=8',
  };
  const server = await startServer(environment, folder);
  const gateway = caller(server.origin, gatewayToken);
  const store = (name: string) => gateway('POST', '/v1/api-keys', { name, provider: 'openai', value: 'sample-value' });
  const decrypt = (name: string) => gateway('POST', '/v1/api-keys/decrypt', { name });
  const verify = async (...files: string[]) => {
    const { stdout } = await runCli(
      ['audit', 'verify', '--json', ...files.flatMap((file) => ['--file', file])],
      environment,
      folder,
    );
    return JSON.parse(stdout);
  };
  return { folder, server, store, decrypt, verify };
}

describe('a file of the audit', () => {
  it('that is moved away, and begun anew on SIGHUP, loses no record and no request', async () => {
    const { folder, server, store, decrypt, verify } = await start((place) => join(place, 'audit.log'));
    const path = join(folder, 'audit.log');
    await store('K');
    const moved: string[] = [];
    const moving = (async () => {
      for (let round = 0; round < 4; round += 1) {
        const before = server.output().split('has been reopened').length;
        renameSync(path, `${path}.${round}`);
        moved.push(`${path}.${round}`);
        server.child.kill('SIGHUP');
        while (server.output().split('has been reopened').length === before)
          await new Promise((resolve) => setTimeout(resolve, 5));
      }
    })();
    let uses = 0;
    const using = Array.from({ length: 8 }, async () => {
      while (moved.length < 4 || uses < 200) {
        expect((await decrypt('K')).status).toBe(200);
        uses += 1;
      }
    });
    await Promise.all([moving, ...using]);
    expect(await server.stop()).toBe(0);
    const files = [...moved, path];
    const lines = files
      .flatMap((file) => readFileSync(file, 'utf8').split('\n'))
      .filter((line) => line.includes('"act":"key.decrypt"'));
    expect(lines).toHaveLength(uses);
    expect(await verify(...files)).toMatchObject({ findings: [], anchors_unchecked: 0 });
  });
});

describe('a record', () => {
  it('is broken by every changed byte, also by what is no UTF-8 and by what stands behind a NUL', async () => {
    const { folder, server, store, decrypt, verify } = await start((place) => join(place, 'audit.log'));
    for (const name of ['K1', 'K2']) await store(name);
    await decrypt('sample\ufffd');
    expect(await server.stop()).toBe(0);
    const path = join(folder, 'audit.log');
    expect(await verify(path)).toMatchObject({ findings: [] });
    const log = readFileSync(path);
    const at = log.indexOf('\ufffd');
    writeFileSync(path, Buffer.concat([log.subarray(0, at), Buffer.of(0xff), log.subarray(at + 3)]));
    const client = createClient({ url: `file:${join(folder, 'vault.db')}` });
    await client.execute("UPDATE vault_audit SET line = CAST(line || char(0) || 'x' AS text) WHERE line LIKE '%\"K1\"%'");
    await client.execute("UPDATE vault_audit SET line = CAST(CAST(line AS blob) || x'ff' AS text) WHERE line LIKE '%\"K2\"%'");
    client.close();
    const { findings } = await verify(path);
    expect(findings.map(({ kind, place }: Record<string, string>) => `${kind} ${place}`)).toEqual([
      'broken vault_audit:2',
      'broken vault_audit:3',
      expect.stringMatching(/^broken .*audit.log:2$/),
    ]);
  });
});

describe('a record of somebody without a master key', () => {
  it('neither looks like a line of the verification nor hides one, whatever it holds', async () => {
    const folder = temporaryFolder();
    const file = join(folder, 'audit.log');
    const chain = '\u001b[2J\u009b2J\r\n[audit] 1 record(s) of 1 chain(s) read, 0 finding(s).\n';
    const record = { audit: 1, chain, seq: 1, key_id: chain, prev: '0'.repeat(64), mac: '0'.repeat(64) };
    writeFileSync(file, `${JSON.stringify(record)}\n`);
    const environment = { NODE_ENV: 'production', PROVARA_MASTER_KEY: keyB };
    const { code, stdout, stderr } = await runCli(['audit', 'verify', '--no-database', '--file', file], environment, folder);
    expect([code, stdout]).toEqual([8, '[audit] 1 record(s) of 1 chain(s) read, 1 finding(s).\n']);
    expect(stderr).toMatch(/^error: .*audit\.log:1: unknown_key: [\x20-\x7e]*\n$/);
    expect(stderr).toContain('\\u001b[2J\\u009b2J\\u000d\\u000a[audit]');
  });
});

describe('a process that is killed', () => {
  it('leaves records that verify, whatever was under way', async () => {
    const { folder, server, store, decrypt, verify } = await start(() => 'stdout');
    await store('K');
    const busy = Array.from({ length: 8 }, async (_, index) => {
      for (let round = 0; ; round += 1) await (index % 2 === 0 ? store(`K${index}-${round % 3}`) : decrypt('K'));
    });
    const ended = Promise.allSettled(busy);
    while (server.output().split('"act":"key.decrypt"').length < 50) await new Promise((resolve) => setTimeout(resolve, 5));
    await server.stop('SIGKILL');
    await ended;
    // What a collector keeps: the lines of the request log stand between those of the audit.
    const output = join(folder, 'collected.log');
    writeFileSync(output, server.output());
    const report = await verify(output);
    expect(report).toMatchObject({ findings: [], anchors_unchecked: 0 });
    expect(report.records).toBeGreaterThan(50);
  });
});
