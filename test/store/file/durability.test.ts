/** On a file nothing that was acknowledged is missing afterwards: not beside a second process, and not after kill -9. */

import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createClient } from '@libsql/client';
import { describe, expect, it } from 'vitest';
import { GatewayDatabase } from '../../support/gateway.ts';
import { temporaryFolder } from '../../support/vault.ts';

const script = fileURLToPath(new URL('../../support/writer.mjs', import.meta.url));
const writingMs = 30_000;
const kills = 100;

interface Writer {
  readonly child: ChildProcess;
  /** The names that it was told are stored: whole lines only. */
  readonly acknowledged: () => string[];
  readonly ended: Promise<number | null>;
}

function startWriter(url: string, prefix: string, milliseconds: number): Writer {
  const child = spawn(process.execPath, [script, url, prefix, String(milliseconds)], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)));
  return { child, acknowledged: () => output.split('\n').slice(0, -1), ended };
}

async function namesIn(url: string): Promise<Set<unknown>> {
  const client = createClient({ url, timeout: 5_000 });
  const integrity = await client.execute('PRAGMA integrity_check');
  expect(integrity.rows.map((row) => row.integrity_check)).toEqual(['ok']);
  // A process that is killed as it starts may not have come to making the table.
  const { rows: tables } = await client.execute("SELECT 1 FROM sqlite_schema WHERE name = 'api_keys'");
  const { rows } = tables.length === 0 ? { rows: [] } : await client.execute('SELECT name FROM api_keys');
  client.close();
  const names = rows.map(({ name }) => name);
  expect(new Set(names).size, 'names that stand twice').toBe(names.length);
  return new Set(names);
}

describe('two processes that write to one file for 30 seconds', () => {
  it('lose none of their acknowledged writes', { timeout: 120_000 }, async () => {
    const url = `file:${join(temporaryFolder(), 'vault.db')}`;
    const writers = [startWriter(url, 'first', writingMs), startWriter(url, 'second', writingMs)];
    expect(await Promise.all(writers.map(({ ended }) => ended))).toEqual([0, 0]);
    const names = await namesIn(url);
    for (const { acknowledged } of writers) {
      expect(acknowledged().length).toBeGreaterThan(100);
      expect(acknowledged().filter((name) => !names.has(name))).toEqual([]);
    }
  });
});

describe('kill -9 at random moments under write load, 100 times', () => {
  it('loses no acknowledged write, and the file is whole each time', { timeout: 400_000 }, async () => {
    const url = `file:${join(temporaryFolder(), 'vault.db')}`;
    const acknowledged: string[] = [];
    for (let round = 0; round < kills; round += 1) {
      const writer = startWriter(url, `round-${round}`, 0);
      // A round in four is killed as it starts, so that migrations and recovery are interrupted too.
      if (randomInt(4) > 0) await untilSome(writer);
      await new Promise((resolve) => setTimeout(resolve, randomInt(200)));
      writer.child.kill('SIGKILL');
      await writer.ended;
      acknowledged.push(...writer.acknowledged());
      const names = await namesIn(url);
      expect(acknowledged.filter((name) => !names.has(name))).toEqual([]);
    }
    expect(acknowledged.length).toBeGreaterThan(kills);
  });
});

async function untilSome({ acknowledged, child }: Writer): Promise<void> {
  while (acknowledged().length === 0 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe('another program that writes to the file of a writing service', () => {
  it('costs neither of them an acknowledged write', { timeout: 60_000 }, async () => {
    const url = `file:${join(temporaryFolder(), 'vault.db')}`;
    const writer = startWriter(url, 'service', 5_000);
    await untilSome(writer);
    const gateway = new GatewayDatabase(url);
    for (let index = 0; index < 50; index += 1) await gateway.insert('a1'.repeat(32), { id: `other-${index}` });
    gateway.close();
    expect(await writer.ended).toBe(0);
    const names = await namesIn(url);
    expect(writer.acknowledged().filter((name) => !names.has(name))).toEqual([]);
    expect([...names].filter((name) => String(name).startsWith('other-'))).toHaveLength(50);
  });
});
