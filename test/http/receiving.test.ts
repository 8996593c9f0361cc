/** A body that does not arrive ends its connection; a snapshot may take longer, for as long as it goes on arriving. */

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { takeSnapshot } from '../support/snapshot.ts';
import { adminToken, gatewayToken, keyA, startVault, temporaryDatabase, tester } from '../support/vault.ts';

const receiveLimits = { bodyMs: 300, largeBodyMs: 60_000, stallMs: 600 };

async function start(limits = receiveLimits) {
  const { url, gateway: database } = await temporaryDatabase();
  await database.insert(keyA, { id: 'one' });
  return startVault(url, {}, { receiveLimits: limits });
}

interface Sending {
  readonly socket: Socket;
  /** All that came back, once the other side has ended the connection. */
  readonly answer: Promise<string>;
}

function headOf(path: string, token: string, type: string, length: number): string {
  const headers = ['Host: sample', `Authorization: Bearer ${token}`, `Content-Type: ${type}`, `Content-Length: ${length}`];
  return `POST ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\n`;
}

function dial(origin: string): Sending {
  const socket = connect(Number(new URL(origin).port), '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  let received = '';
  socket.on('data', (chunk) => {
    received += chunk.toString('utf8');
  });
  const answer = new Promise<string>((resolve) => {
    socket.once('close', () => resolve(received));
    socket.on('error', () => undefined);
  });
  return { socket, answer };
}

/** `before` is what the connection carries ahead of it. */
function send(origin: string, path: string, token: string, type: string, length: number, before = ''): Sending {
  const { socket, answer } = dial(origin);
  socket.write(`${before}${headOf(path, token, type, length)}Connection: close\r\n\r\n`);
  return { socket, answer };
}

describe('a body that does not arrive', () => {
  it('ends the connection, also where it trickles', async () => {
    const { origin } = await start();
    const { socket, answer } = send(origin, '/v1/encrypt', gatewayToken, 'application/json', 1_000);
    const trickle = setInterval(() => socket.write(' '), 50);
    expect(await answer).toMatch(/^HTTP\/1\.1 400 .*The request did not arrive in time\./s);
    clearInterval(trickle);
  });

  it('ends the connection, also where it comes right behind one that is answered', async () => {
    const { origin } = await start({ ...receiveLimits, bodyMs: 1_500 });
    const body = '{"plaintext":"sample"}';
    const before = `${headOf('/v1/encrypt', gatewayToken, 'application/json', body.length)}\r\n${body}`;
    const { answer } = send(origin, '/v1/encrypt', gatewayToken, 'application/json', 1_000, before);
    expect(await answer).toMatch(/^HTTP\/1\.1 200 .*\}HTTP\/1\.1 400 /s);
  });

  it.each([
    ['leads nowhere', '/nothing', 404],
    ['is malformed', '/v1/api-keys/%zz', 400],
    ['is too long', `/v1/api-keys/${'x'.repeat(2_000)}`, 404],
  ])('ends the connection, also where its path %s, and is answered before it', async (_how, path, status) => {
    const { origin } = await start();
    const { socket, answer } = dial(origin);
    socket.write(`${headOf(path, 'no-token-of-the-vault', 'application/json', 1_000_000)}\r\n`);
    const trickle = setInterval(() => socket.write(' '), 50);
    expect(await answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    clearInterval(trickle);
  });

  it('ends the connection of a restore that stalls, and of one that takes too long', async () => {
    const stalled = await start();
    const { socket, answer } = send(stalled.origin, '/admin/restore', adminToken, 'application/x-ndjson', 1_000);
    socket.write('{');
    expect(await answer).toMatch(/^HTTP\/1\.1 400 /);
    const slow = await start({ ...receiveLimits, largeBodyMs: 500 });
    const trickling = send(slow.origin, '/admin/restore', adminToken, 'application/x-ndjson', 1_000);
    const trickle = setInterval(() => trickling.socket.write(' '), 50);
    expect(await trickling.answer).toMatch(/^HTTP\/1\.1 400 /);
    clearInterval(trickle);
  });

  it('ends the connection, also where it comes in chunks and so without a length', async () => {
    const { origin } = await start();
    const { socket, answer } = dial(origin);
    const head = headOf('/v1/encrypt', gatewayToken, 'application/json', 0).replace(
      'Content-Length: 0',
      'Transfer-Encoding: chunked',
    );
    socket.write(`${head}\r\n1\r\n{\r\n`);
    expect(await answer).toMatch(/^HTTP\/1\.1 400 /);
  });

  it('to the restore without the right token gets no more time than any other', async () => {
    const { origin } = await start();
    const { answer } = send(origin, '/admin/restore', gatewayToken, 'application/x-ndjson', 1_000);
    expect(await answer).toMatch(/^HTTP\/1\.1 403 /);
  });
});

describe('a body that has arrived whole', () => {
  it.each([
    ['answered', gatewayToken, 200],
    ['refused before it was read', 'no-token-of-the-vault', 401],
  ])('leaves its connection as it is, long after it was %s', async (_how, token, status) => {
    const { origin } = await start();
    const { socket, answer } = dial(origin);
    const body = '{"plaintext":"sample"}';
    const request = `${headOf('/v1/encrypt', token, 'application/json', body.length)}\r\n${body}`;
    socket.write(request);
    await sleep(2 * receiveLimits.bodyMs);
    socket.write(request.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'));
    expect(await answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} .*\\}HTTP/1\\.1 ${status} `, 's'));
  });
});

describe('a body that has come to a route which reads none', () => {
  it('does not end the connection while the answer is on its way', async () => {
    const vault = await start();
    const { latestSurvey } = vault.services;
    const get = latestSurvey.get.bind(latestSurvey);
    latestSurvey.get = async () => {
      await sleep(3 * receiveLimits.bodyMs);
      return get();
    };
    const { socket, answer } = dial(vault.origin);
    const head = headOf('/ready', gatewayToken, 'application/json', 2).replace('POST', 'GET');
    socket.write(`${head}Connection: close\r\n\r\n{}`);
    expect(await answer).toMatch(/^HTTP\/1\.1 200 /);
  });
});

describe('a restore that is refused before its body has come', () => {
  it('ends the connection rather than read on', async () => {
    const { origin } = await start();
    const { socket, answer } = dial(origin);
    socket.write(`${headOf('/admin/restore?mode=replace', adminToken, 'application/x-ndjson', 1_000)}\r\n{`);
    expect(await answer).toMatch(/^HTTP\/1\.1 400 .*\r\nconnection: close\r\n.*VAULT_SNAPSHOT_DIR/is);
  });
});

describe('a snapshot that goes on arriving', () => {
  it('is restored, although it takes longer than another body may', async () => {
    const vault = await start();
    const snapshot = Buffer.from(await takeSnapshot(vault));
    const { socket, answer } = send(vault.origin, '/admin/restore', adminToken, 'application/x-ndjson', snapshot.length);
    const half = snapshot.length / 8;
    for (let from = 0; from < snapshot.length; from += half) {
      socket.write(snapshot.subarray(from, from + half));
      await sleep(120);
    }
    const received = await answer;
    expect(received).toMatch(/^HTTP\/1\.1 200 /);
    expect(received).toContain('{"restored":0,"kept":1}');
  });
});

describe('a snapshot that is too large', () => {
  it('is refused with 413 where it comes without a length', async () => {
    const { services } = await start();
    const chunks = (async function* () {
      for (let index = 0; index < 3; index += 1) yield Buffer.alloc(1_000);
    })();
    await expect(services.snapshots.restore(tester, chunks, 'merge', 2_999)).rejects.toMatchObject({ code: 'payload_too_large' });
  });

  it('is refused with 413 where it announces more than 1 GiB', async () => {
    const { origin } = await start();
    const { answer } = send(origin, '/admin/restore', adminToken, 'application/x-ndjson', 1024 ** 3 + 1);
    expect(await answer).toMatch(/^HTTP\/1\.1 413 /);
  });
});
