// Storing provider keys on a file, each durable before it is acknowledged.
import { createClient } from '@libsql/client';
import { load } from './load.mjs';
import { alternate, fileWith, randomNewKeyOf, startServers } from './support.mjs';

const rows = 100_000;

export async function store() {
  const { url } = await fileWith(rows);
  // In a file of its own: a client that has met another writer's lock, here that of a thread of the vault, may keep meeting it
  // forever.
  const bareUrl = `${url}.bare`;
  const client = createClient({ url: bareUrl });
  await client.execute('PRAGMA journal_mode = WAL');
  await client.batch(
    [
      `CREATE TABLE bare_writes (id text PRIMARY KEY NOT NULL, tenant_id text, name text NOT NULL, provider text NOT NULL, value text NOT NULL)`,
      'CREATE UNIQUE INDEX bare_writes_name ON bare_writes (tenant_id, name)',
    ],
    'write',
  );
  client.close();
  const { vault, reference } = await startServers(url, { BARE_DATABASE_URL: bareUrl });
  const routes = { vault: `${vault}/v1/api-keys`, bare: `${reference}/point-write` };
  const newKey = () => randomNewKeyOf(rows);
  const callers = { connections: 32 };
  for (const route of Object.values(routes)) await load(route, newKey, { ...callers, seconds: 2 });
  const speed = await alternate(5, {
    vault: async () => (await load(routes.vault, newKey, callers)).perSecond,
    bare: async () => (await load(routes.bare, newKey, callers)).perSecond,
  });
  return [
    {
      figure: '`POST /v1/api-keys` on a file, durable (`synchronous` FULL): stores per second',
      reference: 'a durable write batch of one row through `@libsql/client` a request, in the same process',
      ratio: speed.vault / speed.bare,
      atLeast: 0.7,
    },
  ];
}
