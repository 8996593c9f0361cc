// The vault from its environment, and in the same process the bare Fastify routes that it is compared with.
import { createClient } from '@libsql/client';
import { fastify } from 'fastify';

const answer = { key: { id: 'row-00000000', tenant_id: 'tenant-0', name: 'key-0', provider: 'openai', value: 'x'.repeat(51) } };
const bare = fastify();

bare.post('/bare', (_request, reply) => {
  reply.send(answer);
});

// A service that reads the row and nothing else: one statement of the client per request.
const client = createClient({ url: process.env.DATABASE_URL, concurrency: 20 });
const sql =
  'SELECT id, tenant_id, name, provider, encrypted_value, iv, auth_tag FROM api_keys WHERE tenant_id = ? AND name = ? LIMIT 1';
bare.post('/point-read', async ({ body }) => {
  const { rows } = await client.execute({ sql, args: [body.tenant_id, body.name] });
  return { key: { ...rows[0] } };
});

// One durable write of a row and nothing else.
const { BARE_DATABASE_URL: bareUrl } = process.env;
const writer = bareUrl === undefined ? null : createClient({ url: bareUrl, concurrency: 20 });
const insert = `INSERT INTO bare_writes (id, tenant_id, name, provider, value) VALUES (?, ?, ?, ?, ?)
  ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value`;
let writes = 0;
bare.post('/point-write', async ({ body: { tenant_id, name, provider, value } }) => {
  writes += 1;
  await writer.batch([{ sql: insert, args: [`bare-${writes}`, tenant_id, name, provider, value] }], 'write');
  return answer;
});

const origin = await bare.listen({ host: '127.0.0.1', port: 0 });
await import('../dist/server.js');
while (
  !(await fetch(`http://127.0.0.1:${process.env.PORT}/ready`).then(
    ({ ok }) => ok,
    () => false,
  ))
) {
  await new Promise((resolve) => setTimeout(resolve, 20));
}
process.send({ reference: origin });
process.disconnect();
