// The hot path, and stores, on one file, on one server, and with a second replica: without aims, only what to expect.
import { load } from './load.mjs';
import { alternate, createTable, fileWith, randomKeyOf, randomNewKeyOf, startServers, startSqld } from './support.mjs';

const rows = 100_000;
const rounds = 3;

const randomKey = () => randomKeyOf(rows);
const newKey = () => randomNewKeyOf(rows);

async function together(...loads) {
  const measured = await Promise.all(loads);
  return measured.reduce((sum, { perSecond }) => sum + perSecond, 0);
}

export async function scaling() {
  const { url: fileUrl } = await fileWith(rows);
  const serverUrl = await startSqld();
  await createTable(serverUrl, rows);
  const [file, one, other] = [await startServers(fileUrl), await startServers(serverUrl), await startServers(serverUrl)];
  const half = { connections: 32 };
  const decrypt = (servers, options) => load(`${servers.vault}/v1/api-keys/decrypt`, randomKey, options);
  const store = (servers, options) => load(`${servers.vault}/v1/api-keys`, newKey, options);
  for (const servers of [file, one, other]) await decrypt(servers, { seconds: 2 });
  const speed = await alternate(rounds, {
    file: () => together(decrypt(file)),
    server: () => together(decrypt(one)),
    replicas: () => together(decrypt(one, half), decrypt(other, half)),
    storesOnFile: () => together(store(file, half)),
    storesOnServer: () => together(store(one, half)),
  });
  return [
    {
      figure: 'decrypts by name a second on a libSQL server on the same machine',
      reference: 'those on a file',
      ratio: speed.server / speed.file,
    },
    {
      figure: 'decrypts by name a second of two replicas on that server',
      reference: 'those of one, both cores of the machine busy with it already',
      ratio: speed.replicas / speed.server,
    },
    { figure: 'stores a second on that server', reference: 'those on a file', ratio: speed.storesOnServer / speed.storesOnFile },
  ];
}
