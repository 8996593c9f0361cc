/** The log of the audit says that a line is out only when it is, loses none when it is moved away or fails, and never joins two. */

import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync, symlinkSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { AuditSink } from '../../src/audit/sink.ts';
import { temporaryFolder } from '../support/vault.ts';

const linesOf = (path: string): string[] => readFileSync(path, 'utf8').split('\n').slice(0, -1);

async function openSink(path = join(temporaryFolder(), 'audit.log')) {
  const failures: unknown[] = [];
  const sink = new AuditSink(path, (error) => failures.push(error));
  await sink.open();
  return { path, sink, failures };
}

describe('a file', () => {
  it('holds every line once it is reported, in the order in which they came, and is its owner’s alone', async () => {
    const { path, sink } = await openSink();
    const lines = Array.from({ length: 500 }, (_, index) => `line ${index}`);
    await Promise.all(lines.map((line) => sink.write(line)));
    expect(linesOf(path)).toEqual(lines);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await sink.close();
  });

  it('has taken a line before the event loop turns: whoever waits for it waits for no other thread', async () => {
    const { path, sink } = await openSink();
    const written = sink.write('line').then(() => 'written');
    expect(await Promise.race([written, nextTurn('turned')])).toBe('written');
    expect(linesOf(path)).toEqual(['line']);
    await sink.close();
  });

  it('that is moved away while lines come loses none of them', async () => {
    const { path, sink } = await openSink();
    const written: Promise<void>[] = [];
    for (let index = 0; index < 1_000; index += 1) {
      written.push(sink.write(`line ${index}`));
      if (index % 250 === 100) {
        renameSync(path, `${path}.${index}`);
        written.push(sink.open());
      }
      if (index % 10 === 0) await written.at(-1);
    }
    await Promise.all(written);
    await sink.close();
    const all = ['.100', '.350', '.600', '.850', ''].flatMap((end) => linesOf(path + end));
    expect(all).toEqual(Array.from({ length: 1_000 }, (_, index) => `line ${index}`));
  });

  it('that cannot be opened anew is written on', async () => {
    const { path, sink } = await openSink();
    renameSync(path, `${path}.1`);
    mkdirSync(path);
    await expect(sink.open()).rejects.toMatchObject({ code: 'configuration_error' });
    await sink.write('line');
    expect(linesOf(`${path}.1`)).toEqual(['line']);
    await sink.close();
  });

  it('that ends within a line, as after a loss of power, does not swallow the next one', async () => {
    const path = join(temporaryFolder(), 'audit.log');
    appendFileSync(path, 'torn');
    const { sink } = await openSink(path);
    await sink.write('whole');
    expect(linesOf(path)).toEqual(['torn', 'whole']);
    await sink.close();
  });
});

describe('a device that is full', () => {
  it('is an error for every line that waits, told once; what could not be written goes out first when it can', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'audit.log');
    symlinkSync('/dev/full', path);
    const { sink, failures } = await openSink(path);
    const writes = ['a', 'b'].map((line) => sink.write(line));
    // The third one comes while the others are on their way.
    await nextTurn();
    const results = await Promise.allSettled([...writes, sink.write('c')]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
    expect([sink.isFailing, failures.length]).toEqual([true, 1]);
    // One attempt for all who ask: while a reader takes nothing, thousands may.
    const recovery = sink.recover();
    expect(sink.recover()).toBe(recovery);
    await expect(recovery).rejects.toMatchObject({ code: 'ENOSPC' });
    unlinkSync(path);
    await sink.open();
    await sink.recover();
    await sink.write('d');
    expect(linesOf(path)).toEqual(['a', 'b', 'c', 'd']);
    expect(sink.isFailing).toBe(false);
    await sink.close();
  });
});

describe('a file that may not grow', () => {
  // What a shell allows the process that it becomes, in blocks of 512 bytes: a full disk without a disk of its own.
  const limited = ['-c', 'ulimit -f 2; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e'];
  const begun = `
    import { renameSync } from 'node:fs';
    const [path, built] = process.argv.slice(1);
    const { AuditSink } = await import(built);
    const sink = new AuditSink(path);
    await sink.open();
    const write = async (line) => {
      const ending = await sink.write(line).then(() => 'written', ({ code }) => code);
      process.stdout.write(ending + ' ');
    };`;
  const ended = `
    renameSync(path, path + '.1');
    await sink.open();
    await sink.recover();
    await sink.close();
    process.stdout.write('recovered');`;

  /** What the process says that writes these lines to the path, and goes on in another file. */
  function runLimited(path: string, ...lines: string[]) {
    const built = new URL('../../dist/audit/sink.js', import.meta.url).href;
    const program = [begun, ...lines.map((line) => `await write(${JSON.stringify(line)});`), ended].join('\n');
    const { stdout, stderr } = spawnSync('sh', [...limited, program, path, built], { encoding: 'utf8' });
    return { stdout, stderr };
  }

  it('is an error for the line that it does not hold, which goes whole into the next file', () => {
    const path = join(temporaryFolder(), 'audit.log');
    const lines = ['a'.repeat(700), 'b'.repeat(700)];
    expect(runLimited(path, ...lines)).toEqual({ stdout: 'written EFBIG recovered', stderr: '' });
    expect(linesOf(`${path}.1`)).toEqual(['a'.repeat(700)]);
    expect(linesOf(path)).toEqual(['b'.repeat(700)]);
  });

  it('is opened also where it ends within a line, as a full disk leaves it, and the next file does not begin with its end', () => {
    const path = join(temporaryFolder(), 'audit.log');
    appendFileSync(path, 'torn'.repeat(256));
    expect(runLimited(path, 'whole')).toEqual({ stdout: 'EFBIG recovered', stderr: '' });
    expect(readFileSync(path, 'utf8')).toBe('whole\n');
  });
});
