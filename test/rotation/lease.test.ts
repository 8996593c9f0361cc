/** The lease of a rotation is held for as long as its owner lives, whatever befalls a single renewal, and by nobody else. */

import { describe, expect, it, onTestFinished } from 'vitest';
import { LeaseHolder } from '../../src/rotation/lease-holder.ts';
import { Progress } from '../../src/rotation/progress.ts';
import { RotationStore } from '../../src/store/rotations.ts';
import { beginRotation } from '../support/rotation.ts';
import { migratedDatabase } from '../support/vault.ts';

async function begun() {
  const { database, gateway } = await migratedDatabase();
  const rotations = new RotationStore(database);
  const lease = await beginRotation(rotations, 'owner');
  if (lease === null) throw new Error('Nobody else holds it.');
  const expire = () => gateway.run('UPDATE vault_rotation_lease SET expires_at = unixepoch() - 1');
  return { database, gateway, rotations, lease, expire };
}

it('a lease whose row was lost with a copy of some of the tables can be taken all the same', async () => {
  const { gateway, rotations, lease } = await begun();
  await gateway.run('DELETE FROM vault_rotation_lease');
  expect(await rotations.renew(lease, new Progress().report())).toBe(false);
  expect(await beginRotation(rotations, 'another')).toMatchObject({ owner: 'another' });
});

describe('a renewal', () => {
  it('holds the lease on from now, and is refused to an owner that it was taken from', async () => {
    const { rotations, lease, expire } = await begun();
    await expire();
    expect(await rotations.renew({ ...lease, fence: lease.fence - 1 }, new Progress().report())).toBe(false);
    expect((await rotations.findUnfinished())?.state).toBe('interrupted');
    expect(await rotations.renew(lease, new Progress().report())).toBe(true);
    expect((await rotations.findUnfinished())?.state).toBe('gating');
  });

  it('that fails does not end the rotation: it is made up for by the next', async () => {
    const { database, gateway, rotations, lease, expire } = await begun();
    await expire();
    await gateway.run('ALTER TABLE vault_rotation_lease RENAME TO lease_away');
    const holder = new LeaseHolder(rotations, lease, new Progress(), new AbortController().signal);
    onTestFinished(() => holder.stop());
    await expect.poll(() => database.counters.failures).toBeGreaterThan(0);
    await gateway.run('ALTER TABLE lease_away RENAME TO vault_rotation_lease');
    expect(() => holder.assertHeld()).not.toThrow();
    await expect.poll(async () => (await rotations.findUnfinished())?.state).toBe('gating');
    expect(holder.isLost).toBe(false);
  });
});
