// The hot path: one provider key by name, on a file and on a server.
import { leastOfDecrypt } from './floor.mjs';
import { load, steadyLoad } from './load.mjs';
import { alternate, createTable, fileWith, randomKeyOf, startServers, startSqld } from './support.mjs';

const rows = 100_000;
const rounds = 5;
/** In seconds: long enough that the code is compiled, and that the survey of all rows which a start begins has ended. */
const warmUpSeconds = 10;
/**
 * Many short rounds: a moment in which the machine does something else decides the 99th percentile of the round that it falls
 * into.
 */
const latencyRounds = 25;
const latencySeconds = 3;

const randomKey = () => randomKeyOf(rows);

export async function decryptOnFile() {
  const { file, url } = await fileWith(rows);
  const { vault, reference } = await startServers(url);
  const routes = { vault: `${vault}/v1/api-keys/decrypt`, bare: `${reference}/bare` };
  for (const route of Object.values(routes)) await load(route, randomKey, { seconds: warmUpSeconds });
  const speed = await alternate(rounds, {
    vault: async () => (await load(routes.vault, randomKey)).perSecond,
    bare: async () => (await load(routes.bare, randomKey)).perSecond,
  });
  const half = Math.floor(speed.vault / 2);
  const p99 = await alternate(latencyRounds, {
    vault: () => steadyLoad(routes.vault, rows, half, latencySeconds),
    bare: () => steadyLoad(routes.bare, rows, half, latencySeconds),
  });
  return [
    {
      figure: '`POST /v1/api-keys/decrypt`, 100,000 rows on a file: requests per second',
      reference: 'a bare Fastify route in the same process, equal body and answer',
      ratio: speed.vault / speed.bare,
      atLeast: 0.7,
    },
    {
      figure: 'the same, p99 at half of that load',
      reference: 'the bare route at the same load',
      ratio: p99.vault / p99.bare,
      atMost: 1.5,
    },
    {
      figure: 'the most requests per second that the parts which no decrypt can do without would leave, if all else took no time',
      reference: 'the bare route',
      ratio: 1 / (1 + speed.bare * leastOfDecrypt(file, rows)),
    },
  ];
}

export async function decryptOnServer() {
  const url = await startSqld();
  await createTable(url, rows);
  const { vault, reference } = await startServers(url);
  const routes = { vault: `${vault}/v1/api-keys/decrypt`, pointRead: `${reference}/point-read` };
  const callers = { connections: 32 };
  for (const route of Object.values(routes)) await load(route, randomKey, { ...callers, seconds: warmUpSeconds });
  const speed = await alternate(rounds, {
    vault: async () => (await load(routes.vault, randomKey, callers)).perSecond,
    pointRead: async () => (await load(routes.pointRead, randomKey, callers)).perSecond,
  });
  return [
    {
      figure: 'the same on a libSQL server, 32 callers: requests per second',
      reference: 'one point read of `@libsql/client` a request, in the same process',
      ratio: speed.vault / speed.pointRead,
      atLeast: 0.9,
    },
  ];
}
