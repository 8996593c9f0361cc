// Rotations by the command line, as its user would run them, against today's way, a bare loop of node:crypto, and other table
// sizes.
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { load, steadyLoad } from './load.mjs';
import {
  adminToken,
  alternate,
  createTable,
  fileWith,
  gatewaySeal,
  keyA,
  keyB,
  randomKeyOf,
  run,
  secretOf,
  startServers,
  startSqld,
  temporaryFolder,
  timed,
} from './support.mjs';

/** As `npm run key:rotate` starts it. */
const options = ['--max-semi-space-size=4', '--single-threaded-gc', '--import', new URL('usage.mjs', import.meta.url).href];

/** A table that is rotated back and forth. `rotate` returns the duration in seconds and the peak memory of one rotation. */
function backAndForth(url, rows) {
  let [from, to] = [keyA, keyB];
  const rotate = async () => {
    const environment = { DATABASE_URL: url, PROVARA_MASTER_KEY_OLD: from, PROVARA_MASTER_KEY_NEW: to };
    const { stdout, seconds } = await run('../dist/cli.js', ['rotate', '--json'], environment, options);
    if (!stdout.includes(`rotated ${rows} of ${rows} row(s).`)) throw new Error(`Not every row was rotated: ${stdout}`);
    [from, to] = [to, from];
    return { seconds, maxRssKib: Number(stdout.trim().split('\n').at(-1)) };
  };
  const rotateAsToday = async () => {
    const { seconds } = await run('rotate-as-today.mjs', [url, from, to]);
    [from, to] = [to, from];
    return seconds;
  };
  // The first rotation of a table that the vault has never served opens it once more, before it adds the vault's own columns and
  // tables.
  const serve = async () => void (await rotate());
  return { rotate, rotateAsToday, serve };
}

/** Opens and seals each row once, and nothing else. */
function loopOverRows(sealedRows) {
  const [from, to] = [keyA, keyB].map((key) => createSecretKey(Buffer.from(key, 'hex')));
  for (const { encrypted_value, iv, auth_tag } of sealedRows) {
    const decipher = createDecipheriv('aes-256-gcm', from, Buffer.from(iv, 'hex'), { authTagLength: 16 });
    decipher.setAuthTag(Buffer.from(auth_tag, 'hex'));
    const plaintext = Buffer.concat([decipher.update(encrypted_value, 'hex'), decipher.final()]);
    const newIv = randomBytes(16);
    const cipher = createCipheriv('aes-256-gcm', to, newIv, { authTagLength: 16 });
    const encrypted = cipher.update(plaintext, undefined, 'hex') + cipher.final('hex');
    newIv.toString('hex');
    if (encrypted.length + cipher.getAuthTag().toString('hex').length === 0) throw new Error('Nothing was sealed.');
  }
}

export async function rotationOnFile() {
  const rows = 100_000;
  const { file, url } = await fileWith(rows);
  const copy = join(temporaryFolder(), 'copy.db');
  copyFileSync(file, copy);
  const vault = backAndForth(url, rows);
  const today = backAndForth(`file:${copy}`, rows);
  const sealedRows = Array.from({ length: rows }, (_, index) => gatewaySeal(keyA, secretOf(index)));
  await vault.serve();
  const seconds = await alternate(5, {
    vault: async () => (await vault.rotate()).seconds,
    today: today.rotateAsToday,
    loop: () => timed(() => loopOverRows(sealedRows)),
  });
  return [
    {
      figure: 'rotation, 100,000 rows on a file, gate and verification included: rows per second',
      reference: 'today’s way on a copy: read all, open all, one `UPDATE` a row',
      ratio: seconds.today / seconds.vault,
      atLeast: 8,
    },
    {
      figure: 'the same',
      reference: 'a loop that opens and seals each row once with `node:crypto`, no database',
      ratio: seconds.loop / seconds.vault,
      atLeast: 0.35,
    },
  ];
}

export async function rotationOnServer() {
  const rows = 20_000;
  const [url, copy] = [await startSqld(), await startSqld()];
  await createTable(url, rows);
  await createTable(copy, rows);
  const vault = backAndForth(url, rows);
  const today = backAndForth(copy, rows);
  await vault.serve();
  const seconds = await alternate(2, {
    vault: async () => (await vault.rotate()).seconds,
    today: today.rotateAsToday,
  });
  return [
    {
      figure: 'rotation, 20,000 rows on a libSQL server: rows per second',
      reference: 'today’s way on such a server',
      ratio: seconds.today / seconds.vault,
      atLeast: 20,
    },
  ];
}

export async function growth() {
  const [small, medium, large] = [10_000, 100_000, 1_000_000];
  const tables = {};
  for (const rows of [small, medium, large]) tables[rows] = backAndForth((await fileWith(rows)).url, rows);
  const rss = { small: [], large: [] };
  const measure = async (rows, into) => {
    const { seconds, maxRssKib } = await tables[rows].rotate();
    into?.push(maxRssKib);
    return seconds;
  };
  const seconds = await alternate(2, {
    small: () => measure(small, rss.small),
    medium: () => measure(medium),
    large: () => measure(large, rss.large),
  });
  return [
    {
      figure: 'growth: time to rotate 1,000,000 rows',
      reference: '10 times that for 100,000',
      ratio: seconds.large / (10 * seconds.medium),
      atMost: 1.15,
    },
    {
      figure: 'most memory (RSS) of a rotation of 1,000,000 rows, in MB more',
      reference: 'that of 10,000 rows',
      ratio: ((Math.max(...rss.large) - Math.min(...rss.small)) * 1_024) / 1e6,
      atMost: 100,
    },
  ];
}

/** Shorter than a rotation, so that the whole measurement falls within one. */
const latencySeconds = 5;

export async function decryptWhileRotating() {
  const rows = 200_000;
  const { url } = await fileWith(rows);
  const { vault } = await startServers(url);
  const route = `${vault}/v1/api-keys/decrypt`;
  const admin = async (method, path, body) => {
    const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' };
    const answer = await fetch(vault + path, { method, headers, ...(body && { body: JSON.stringify(body) }) });
    return answer.json();
  };
  const { perSecond } = await load(route, () => randomKeyOf(rows), { seconds: 5 });
  const quarter = Math.floor(perSecond / 4);
  const { keys } = await admin('GET', '/admin/master-keys');
  const ids = keys.map(({ key_id }) => key_id);
  let [from, to] = [ids[0], ids[1]];
  const whileRotating = async () => {
    const { rotation } = await admin('POST', '/admin/rotate/execute?wait=0', { old_key_id: from, new_key_id: to });
    const p99Ms = await steadyLoad(route, rows, quarter, latencySeconds);
    const { rotation: now } = await admin('GET', `/admin/rotate/${rotation.id}`);
    if (now.state === 'completed') throw new Error('The rotation ended before the load did.');
    [from, to] = [to, from];
    let state = now.state;
    while (state !== 'completed') {
      await new Promise((resolve) => setTimeout(resolve, 200));
      ({ state } = (await admin('GET', `/admin/rotate/${rotation.id}`)).rotation);
      if (state === 'failed' || state === 'interrupted' || state === 'verify_failed')
        throw new Error(`The rotation is ${state}.`);
    }
    return p99Ms;
  };
  const p99 = await alternate(7, {
    before: () => steadyLoad(route, rows, quarter, latencySeconds),
    during: whileRotating,
  });
  return [
    {
      figure: 'decrypt by name while 200,000 rows are rotated: p99 at a quarter of full load',
      reference: 'before the rotation, same load',
      ratio: p99.during / p99.before,
      atMost: 2,
    },
  ];
}
