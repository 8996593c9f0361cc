// The overhead of the client: for a key in its cache, and for a request.
import { Pool } from 'undici';
import { VaultClient } from '../dist/client/index.js';
import { alternate, fileWith, gatewayToken, headers, nameOf, startServers, tenantOf, timed } from './support.mjs';

const lookups = 500_000;
const requests = 3_000;
const callers = 20;
const body = { tenant_id: tenantOf(7), name: nameOf(7) };

/** Seconds per lookup, one after another. */
async function each(lookUp) {
  const seconds = await timed(async () => {
    for (let count = 0; count < lookups; count += 1) await lookUp();
  });
  return seconds / lookups;
}

/** Requests per second, from several concurrent callers. */
async function rate(ask) {
  const seconds = await timed(() =>
    Promise.all(
      Array.from({ length: callers }, async (_, caller) => {
        for (let count = caller; count < requests; count += callers) await ask(count);
      }),
    ),
  );
  return requests / seconds;
}

function bareRequest(pool) {
  return async (index) => {
    const answer = await pool.request({
      method: 'POST',
      path: '/v1/api-keys/decrypt',
      headers,
      body: JSON.stringify({ tenant_id: tenantOf(index), name: nameOf(index) }),
    });
    return answer.body.json();
  };
}

export async function client() {
  const { url } = await fileWith(requests);
  const { vault: origin } = await startServers(url);
  const cached = new VaultClient({ url: origin, token: gatewayToken, cache: { ttlMs: 3_600_000 } });
  const plain = new VaultClient({ url: origin, token: gatewayToken });
  const pool = new Pool(origin, { connections: callers });
  const keys = new Map([[`${body.tenant_id}\0${body.name}`, await cached.decryptKey(body)]]);
  const warm = await alternate(5, {
    map: () => each(async () => keys.get(`${body.tenant_id}\0${body.name}`)),
    client: () => each(() => cached.decryptKey(body)),
  });
  const cold = await alternate(5, {
    bare: () => rate(bareRequest(pool)),
    client: () => rate((index) => plain.decryptKey({ tenant_id: tenantOf(index), name: nameOf(index) })),
  });
  await Promise.all([cached.close(), plain.close(), pool.close()]);
  return [
    {
      figure: 'client: a decrypt that its cache answers, time',
      reference: 'a `Map` lookup behind an async function',
      ratio: warm.client / warm.map,
      atMost: 5,
    },
    {
      figure: 'client: decrypts without a cache, per second',
      reference: 'undici against the same vault',
      ratio: cold.client / cold.bare,
      atLeast: 0.8,
    },
  ];
}
