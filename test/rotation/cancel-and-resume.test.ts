/** A rotation can be called off before it switches, by anybody; and one whose process has gone is finished by the next start. */

import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { vaultActor } from '../../src/audit/event.ts';
import { readCliConfig } from '../../src/config.ts';
import { parseMasterKey } from '../../src/crypto/master-key.ts';
import { StorageUnavailableError } from '../../src/errors.ts';
import { createSilentLogger } from '../../src/logging.ts';
import { cancelRotation } from '../../src/rotation/control.ts';
import { renewalIntervalMs } from '../../src/rotation/lease-holder.ts';
import { buildServices } from '../../src/services.ts';
import { Database } from '../../src/store/database.ts';
import { RotationStore } from '../../src/store/rotations.ts';
import type { GatewayDatabase } from '../support/gateway.ts';
import { beginRotation } from '../support/rotation.ts';
import { keyA, keyB, keyC, keyIdA, keyIdB, keyIdC, startVault, type TestVault, temporaryDatabase } from '../support/vault.ts';

const staged = { PROVARA_MASTER_KEY_NEW: keyB };

/** A vault on a table of two rows, and a rotation on record whose process has gone without a word. */
async function abandonedRotation(): Promise<{ url: string; database: GatewayDatabase; id: string }> {
  const { url, gateway: database } = await temporaryDatabase();
  for (const id of ['a', 'b']) await database.insert(keyA, { id });
  await (await startVault(url, staged)).close();
  await begin(url, 'gone');
  return { url, database, id: 'abandoned' };
}

/** Begins it, or takes it up, and answers what is on record then. */
async function begin(url: string, owner: string, id = 'abandoned') {
  const connection = new Database({ url });
  const rotations = new RotationStore(connection);
  await beginRotation(rotations, owner, id);
  const begun = await rotations.find(id);
  await connection.close();
  return begun;
}

/** The real database, whose pages of rows are not read while it is held. */
class HeldDatabase extends Database {
  #held: Promise<void> = Promise.resolve();

  hold(): () => void {
    let letGo = (): void => undefined;
    this.#held = new Promise((resolve) => {
      letGo = resolve;
    });
    return letGo;
  }

  override async read(...given: Parameters<Database['read']>): ReturnType<Database['read']> {
    if (given[0].includes('AS last_row_id')) await this.#held;
    return super.read(...given);
  }
}

/** The real database, in which something comes to pass just before the lease of a rotation is asked for. */
class LateDatabase extends Database {
  before: () => Promise<void> = async () => undefined;

  override async write(...given: Parameters<Database['write']>): ReturnType<Database['write']> {
    if (given[0].some(({ sql }) => sql.includes('UPDATE vault_rotation_lease SET rotation_id = ?'))) await this.before();
    return super.write(...given);
  }
}

async function untilCompleted({ admin }: TestVault, id: string) {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const { rotation } = (await admin('GET', `/admin/rotate/${id}`)).body;
    if (rotation.state === 'completed') return rotation;
    if (Date.now() > deadline) throw new Error(`It is still ${rotation.state}.`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe('a cancelled rotation', () => {
  it('frees the way for another with other keys, and has changed no row', async () => {
    const { url, database, id } = await abandonedRotation();
    const { admin } = await startVault(url, { ...staged, PROVARA_MASTER_KEY_OLD: keyC });
    const refused = await admin('POST', '/admin/rotate/execute', { old_key_id: keyIdA, new_key_id: keyIdC });
    expect([refused.status, refused.body.error.details.rotation_id]).toEqual([409, id]);
    await database.run("UPDATE vault_rotations SET error = 'The vault is stopping.'");
    const cancelled = await admin('POST', `/admin/rotate/${id}/cancel`);
    expect(cancelled.status).toBe(200);
    expect(cancelled.body.rotation).toMatchObject({ id, state: 'cancelled', error: null });
    expect(await database.open(keyA, 'a')).toBe('sample-value-of-a');
    expect((await admin('GET', '/admin/rotate')).body).toMatchObject({ running: null, last: { id, state: 'cancelled' } });
    const other = await admin('POST', '/admin/rotate/execute', { old_key_id: keyIdA, new_key_id: keyIdC });
    expect(other.body.rotation).toMatchObject({ state: 'completed', rows_rotated: 2 });
  });

  it('is answered the same when it is cancelled again', async () => {
    const { url, id } = await abandonedRotation();
    const { admin } = await startVault(url, staged);
    const first = await admin('POST', `/admin/rotate/${id}/cancel`);
    const again = await admin('POST', `/admin/rotate/${id}/cancel`);
    expect([again.status, again.body]).toEqual([200, first.body]);
  });

  it('is told as such also where its process learns from the lease that it has ended', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a' });
    const { database: location, ...config } = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged });
    const held = new HeldDatabase(location);
    const services = buildServices({ ...config, database: location }, createSilentLogger(), { database: held });
    await services.prepare();
    const letGo = held.hold();
    const { id, done } = await services.rotator.start({});
    const { rotations, journal } = services;
    expect(await cancelRotation({ rotations, journal }, vaultActor, id)).toMatchObject({ state: 'cancelled' });
    await sleep(renewalIntervalMs + 500);
    letGo();
    expect(await done).toMatchObject({ id, state: 'cancelled', error: null });
    await services.close();
  });

  it('is no other than one that has not switched: a finished one gets 409, an unknown one 404', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    await database.insert(keyA, { id: 'a' });
    const { admin } = await startVault(url, staged);
    const { id } = (await admin('POST', '/admin/rotate/execute')).body.rotation;
    const refused = await admin('POST', `/admin/rotate/${id}/cancel`);
    expect([refused.status, refused.body.error.type]).toEqual([409, 'rotation_in_progress']);
    expect(refused.body.error.message).toContain(`To undo it, rotate from ${keyIdB} back to ${keyIdA}`);
    for (const state of ['verify_failed', 'interrupted']) {
      await database.run('UPDATE vault_rotations SET state = ?', [state]);
      const unfinished = await admin('POST', `/admin/rotate/${id}/cancel`);
      expect([unfinished.status, unfinished.body.error?.message]).toEqual([
        409,
        expect.stringContaining('Finish it, and to undo it'),
      ]);
      expect(await database.rows('vault_rotations')).toMatchObject([{ id, state }]);
    }
    expect((await admin('POST', '/admin/rotate/no-such-rotation/cancel')).status).toBe(404);
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
  });
});

describe('a rotation that was planned', () => {
  it('is not begun where another has been left unfinished since', async () => {
    const { url, database } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    expect(await begin(url, 'another', 'planned')).toBeNull();
    expect(await database.rows('vault_rotation_lease')).toMatchObject([{ owner: 'gone' }]);
  });

  it('is not taken up where it has been cancelled since', async () => {
    const { url, id } = await abandonedRotation();
    const { admin } = await startVault(url, staged);
    await admin('POST', `/admin/rotate/${id}/cancel`);
    expect(await begin(url, 'another')).toMatchObject({ id, state: 'cancelled' });
  });
});

describe('a rotation that has switched between the plan of who takes it up and the lease', () => {
  it('is not recorded as one that has written nothing, and is finished by the next call', async () => {
    const { url, database } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const { database: location, ...config } = readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged });
    const late = new LateDatabase(location);
    late.before = async () => {
      await database.run("UPDATE vault_rotations SET switched = 1, state = 'writing'");
      await database.run('UPDATE vault_active_key SET key_id = ?', [keyIdB]);
      await database.insert('f'.repeat(64), { id: 'unknown' });
    };
    const services = buildServices({ ...config, database: location }, createSilentLogger(), { database: late });
    await services.migrate();
    const { id, done } = await services.rotator.start({});
    await expect(done).rejects.toMatchObject({ code: 'decrypt_gate_failed' });
    expect(await services.rotations.find(id)).toMatchObject({ state: 'verify_failed', isSwitched: true });
    late.before = async () => undefined;
    await database.run("DELETE FROM api_keys WHERE id = 'unknown'");
    expect(await (await services.rotator.start({})).done).toMatchObject({ id, state: 'completed', rowsVerified: 2 });
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
    await services.close();
  });
});

describe('a vault that stops while the gate is open', () => {
  it('looks at no further page, has written nothing, and the next start finishes the rotation', async () => {
    const { url, gateway: database } = await temporaryDatabase();
    for (const id of ['a', 'b']) await database.insert(keyA, { id });
    const settings = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged };
    const services = buildServices(readCliConfig(settings), createSilentLogger());
    await services.prepare();
    const { id, done } = await services.rotator.start({});
    await services.rotator.close();
    await expect(done).rejects.toThrow('The vault is stopping');
    await expect(services.rotator.dryRun({})).rejects.toThrow('The vault is stopping');
    await services.close();
    const connection = new Database({ url });
    expect(await new RotationStore(connection).find(id)).toMatchObject({ state: 'interrupted', rowsScanned: 0 });
    await connection.close();
    expect(await database.open(keyA, 'a')).toBe('sample-value-of-a');
    await untilCompleted(await startVault(url, staged), id);
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
  });
});

describe('a rotation whose process has gone', () => {
  it('is finished by the next start of a replica, once the lease has expired', async () => {
    const { url, database, id } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = unixepoch() + 6');
    const vault = await startVault(url, staged);
    expect((await vault.admin('GET', `/admin/rotate/${id}`)).body.rotation.state).toBe('gating');
    expect(await untilCompleted(vault, id)).toMatchObject({ rows_rotated: 2, rows_verified: 2 });
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
  });

  it('is finished also where the database did not answer while the lease was waited for', async () => {
    const { url, database } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = unixepoch() + 5');
    let failures = 0;
    class AwayDatabase extends Database {
      override async read(...given: Parameters<Database['read']>): ReturnType<Database['read']> {
        const isAway = failures < 2 && given[0].includes('ORDER BY started_at DESC');
        failures += isAway ? 1 : 0;
        if (isAway) throw new StorageUnavailableError('It is away.');
        return super.read(...given);
      }
    }
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged };
    const services = buildServices(readCliConfig(environment), createSilentLogger(), { database: new AwayDatabase({ url }) });
    await services.prepare();
    await expect.poll(() => database.open(keyB, 'b')).toBe('sample-value-of-b');
    expect(failures).toBe(2);
    await services.close();
  });

  it('is finished also where the database does not answer just when it is taken up', async () => {
    const { url, database } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const late = new LateDatabase({ url });
    late.before = async () => {
      late.before = async () => undefined;
      throw new StorageUnavailableError('It is away.');
    };
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged };
    const services = buildServices(readCliConfig(environment), createSilentLogger(), { database: late });
    await services.prepare();
    await expect.poll(() => database.open(keyB, 'b').catch(() => null)).toBe('sample-value-of-b');
    await services.close();
  });

  it('is finished also where the start that was first to take it up dies before its end', async () => {
    const { url, database, id } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const late = new LateDatabase({ url });
    late.before = async () => {
      late.before = async () => undefined;
      await begin(url, 'another');
    };
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY: keyA, ...staged };
    const services = buildServices(readCliConfig(environment), createSilentLogger(), { database: late });
    await services.prepare();
    await expect.poll(() => database.rows('vault_rotation_lease')).toMatchObject([{ rotation_id: id, owner: 'another' }]);
    await sleep(200);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    await expect.poll(() => database.open(keyB, 'b').catch(() => null)).toBe('sample-value-of-b');
    await services.close();
  });

  it('is taken up without what was last heard of how far it is', async () => {
    const { url, database } = await abandonedRotation();
    await database.run(`UPDATE vault_rotations SET progress = '{"rowsDone":9,"rowsTotal":9,"rowsPerSecond":1,"secondsLeft":0}'`);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    expect(await begin(url, 'another')).toMatchObject({ state: 'gating', progress: null });
  });

  it('is finished also where the clock has been set back since', async () => {
    const { url, database, id } = await abandonedRotation();
    await database.run('UPDATE vault_rotation_lease SET expires_at = unixepoch() + 3600');
    expect(await untilCompleted(await startVault(url, staged), id)).toMatchObject({ rows_rotated: 2, rows_verified: 2 });
    expect(await database.open(keyB, 'a')).toBe('sample-value-of-a');
  });

  /** As {@link abandonedRotation}, which had switched. */
  async function abandonedBehindSwitch() {
    const abandoned = await abandonedRotation();
    const { database } = abandoned;
    await database.run("UPDATE vault_rotations SET state = 'writing', switched = 1");
    await database.run('UPDATE vault_active_key SET key_id = ?', [keyIdB]);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    return abandoned;
  }

  it('is left alone, once it has switched, by a replica that lacks the old key which rows need, and that is not ready', async () => {
    const { url, database, id } = await abandonedBehindSwitch();
    const vault = await startVault(url, { PROVARA_MASTER_KEY: keyB });
    const { status, body } = await vault.gateway('GET', '/ready');
    expect([status, body.error?.message]).toEqual([503, expect.stringContaining(`The master key ${keyIdA} (being rotated)`)]);
    await sleep(500);
    expect(await database.rows('vault_rotation_lease')).toMatchObject([{ rotation_id: id, owner: 'gone', fence: 1 }]);
    await vault.close();
    expect(await untilCompleted(await startVault(url, staged), id)).toMatchObject({ rows_rotated: 2 });
  });

  it('is finished, once it has switched, by a replica that lacks the old key, where no row needs that', async () => {
    const { url, database, id } = await abandonedBehindSwitch();
    for (const row of ['a', 'b']) await database.update(keyB, row, 'sample-rotated');
    const vault = await startVault(url, { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_NEW: keyC });
    expect(await untilCompleted(vault, id)).toMatchObject({ rows_already_rotated: 2 });
    expect((await vault.gateway('GET', '/ready')).status).toBe(200);
    expect((await vault.admin('POST', '/admin/rotate/execute')).body.rotation).toMatchObject({
      to_key_id: keyIdC,
      rows_rotated: 2,
    });
  });

  it.each(['completed', 'cancelled'])(
    'is all that a start takes up: where it is %s meanwhile, none to a key that is staged begins instead',
    async (state) => {
      const { url, database, id } = await abandonedBehindSwitch();
      let reads = 0;
      class EndedMeanwhile extends Database {
        override async read(...given: Parameters<Database['read']>): ReturnType<Database['read']> {
          reads += given[0].includes('ORDER BY started_at DESC') ? 1 : 0;
          if (reads === 2) await database.run('UPDATE vault_rotations SET state = ?', [state]);
          return super.read(...given);
        }
      }
      const lines: string[] = [];
      const logger = pino({}, { write: (line) => void lines.push(line) });
      const keys = { PROVARA_MASTER_KEY: keyB, PROVARA_MASTER_KEY_OLD: keyA, PROVARA_MASTER_KEY_NEW: keyC };
      const config = readCliConfig({ DATABASE_URL: url, ...keys });
      const services = buildServices(config, logger, { database: new EndedMeanwhile({ url }) });
      await services.prepare();
      await expect.poll(() => lines.join('')).toContain(`Rotation ${id} has ended meanwhile`);
      await services.close();
      expect(await database.rows('vault_rotations')).toMatchObject([{ id, state }]);
      expect(await database.rows('vault_active_key')).toMatchObject([{ key_id: keyIdB }]);
    },
  );

  it('names the rows, once it has switched, that do not open when it is taken up, and says that both keys stay', async () => {
    const { url, database, id } = await abandonedBehindSwitch();
    await database.run("UPDATE api_keys SET auth_tag = '00' WHERE id = 'b'");
    const { admin } = await startVault(url, staged);
    const rotation = async () => (await admin('GET', `/admin/rotate/${id}`)).body.rotation;
    await expect.poll(async () => (await rotation()).state).toBe('verify_failed');
    expect((await rotation()).error).toMatch(/api_keys\.id=b.*keep both keys\.$/);
    for (const call of ['execute', 'dry-run']) {
      const { status, body } = await admin('POST', `/admin/rotate/${call}`);
      expect([status, body.error.details.switched, body.error.message], call).toEqual([
        422,
        true,
        expect.stringMatching(
          /1 of 2 row\(s\) failed; nothing was written\. The active key had been switched before: keep both keys\.$/,
        ),
      ]);
    }
  });

  it('keeps nobody from serving where it was begun with a mistyped key, and left before it had written anything', async () => {
    const { url, database } = await abandonedRotation();
    await database.run('UPDATE vault_rotations SET from_key_id = ?', [keyIdC]);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    expect((await (await startVault(url, staged)).gateway('GET', '/ready')).status).toBe(200);
  });

  it('is left alone by a replica that lacks its new key, and the log calls that as everybody may know it', async () => {
    const { url, database } = await abandonedRotation();
    const passphraseId = parseMasterKey('sample passphrase').id;
    await database.run('UPDATE vault_rotations SET to_key_id = ?', [passphraseId]);
    await database.run('INSERT INTO vault_master_keys (key_id, is_passphrase, first_seen_at) VALUES (?, 1, 1)', [passphraseId]);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const lines: string[] = [];
    const logger = pino({}, { write: (line) => void lines.push(line) });
    const services = buildServices(readCliConfig({ DATABASE_URL: url, PROVARA_MASTER_KEY: keyA }), logger);
    await services.prepare();
    await expect.poll(() => lines.join('')).toContain('The new master key passphrase is not in the keyring');
    expect(lines.join('')).not.toContain(passphraseId);
    await services.close();
  });

  it('is left alone by a replica that lacks its new key, which serves once it is left, and shows as interrupted', async () => {
    const { url, database, id } = await abandonedRotation();
    const vault = await startVault(url);
    const during = await vault.gateway('GET', '/ready');
    expect([during.status, during.body.error?.message]).toEqual([503, expect.stringContaining(`${keyIdB} (being rotated)`)]);
    await database.run('UPDATE vault_rotation_lease SET expires_at = 0');
    const ready = await vault.gateway('GET', '/ready');
    expect([ready.status, ready.body.warnings]).toEqual([
      200,
      [expect.stringMatching(`^The rotation ${id} is unfinished \\(interrupted\\).* or cancel it\\.$`)],
    ]);
    const { running } = (await vault.admin('GET', '/admin/rotate')).body;
    expect(running).toMatchObject({
      state: 'interrupted',
      progress: null,
      error: expect.stringContaining('run the same rotation again'),
    });
    expect(await database.open(keyA, 'a')).toBe('sample-value-of-a');
  });
});
