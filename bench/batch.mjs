// A thousand texts in one call, against node:crypto opening the same texts in a loop.
import { createDecipheriv, createSecretKey } from 'node:crypto';
import { alternate, fileWith, headers, keyA, secretOf, startServers, timed } from './support.mjs';

const items = 1_000;
const callsOfRound = 20;
const callers = 2;
const rounds = 9;
/** For a text without a context; see docs/formats.md. */
const associatedData = Buffer.concat([Buffer.from('provara-vault/pv1'), Buffer.of(0)]);

async function post(origin, route, body) {
  const answer = await fetch(`${origin}/v1/${route}`, { method: 'POST', headers, body });
  if (!answer.ok) throw new Error(`${route}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

function openText(key, ciphertext) {
  const bytes = Buffer.from(ciphertext.slice(ciphertext.lastIndexOf('.') + 1), 'base64url');
  const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, 12), { authTagLength: 16 });
  decipher.setAuthTag(bytes.subarray(-16));
  decipher.setAAD(associatedData);
  return decipher.update(bytes.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8');
}

export async function batch() {
  const { url } = await fileWith(1);
  const { vault } = await startServers(url);
  const plaintexts = Array.from({ length: items }, (_, index) => ({ plaintext: secretOf(index) }));
  const sealed = (await post(vault, 'encrypt', JSON.stringify({ items: plaintexts }))).items;
  const body = JSON.stringify({ items: sealed.map(({ ciphertext }) => ({ ciphertext })) });
  const key = createSecretKey(Buffer.from(keyA, 'hex'));
  const caller = async () => {
    for (let call = 0; call < callsOfRound / callers; call += 1) await post(vault, 'decrypt', body);
  };
  // One caller reads its answer while the vault works on the other's call.
  const throughVault = () => Promise.all(Array.from({ length: callers }, caller));
  const inLoop = () => {
    for (let call = 0; call < callsOfRound; call += 1) for (const { ciphertext } of sealed) openText(key, ciphertext);
  };
  await throughVault();
  inLoop();
  const seconds = await alternate(rounds, { vault: () => timed(throughVault), loop: () => timed(inLoop) });
  return [
    {
      figure: '`POST /v1/decrypt` with 1,000 items: items per second',
      reference: '`node:crypto` opening the same texts in a loop',
      ratio: seconds.loop / seconds.vault,
      atLeast: 0.6,
    },
  ];
}
