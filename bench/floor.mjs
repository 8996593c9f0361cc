// The parts that no decrypt by name can do without, each measured in a loop of its own: the minimum distance of the vault from a
// bare route.
import { createDecipheriv, createHmac, createSecretKey, hash, randomInt, randomUUID } from 'node:crypto';
import { Ajv } from 'ajv';
import NativeDatabase from 'libsql';
import { destination, pino } from 'pino';
import { gatewaySeal, gatewayToken, keyA, nameOf, secretOf, tenantOf } from './support.mjs';

const readsAtOnce = 32;
const loops = 20_000;

function secondsOf(work, perLoop = 1) {
  for (let index = 0; index < loops / 5; index += 1) work(index);
  const startedAt = performance.now();
  for (let index = 0; index < loops; index += 1) work(index);
  return (performance.now() - startedAt) / 1_000 / loops / perLoop;
}

/**
 * One indexed read by tenant and name, as part of a kept statement that makes many, without handling unusual contents of a row.
 */
function readSeconds(file, rows) {
  const database = new NativeDatabase(file);
  const statement = database.prepare(`SELECT key, tenant_id, encrypted_value, iv, auth_tag FROM json_each(?) CROSS JOIN api_keys
    ON tenant_id IS value->>0 AND name = value->>1`);
  const questions = Array.from({ length: 500 }, () => {
    const indices = Array.from({ length: readsAtOnce }, () => randomInt(rows));
    return JSON.stringify(indices.map((index) => [tenantOf(index), nameOf(index)]));
  });
  statement.raw(true);
  const seconds = secondsOf((index) => {
    if (statement.all(questions[index % questions.length]).length !== readsAtOnce) throw new Error('A row was not found.');
  }, readsAtOnce);
  database.close();
  return seconds;
}

function openSeconds(key) {
  const sealed = Array.from({ length: 1_000 }, (_, index) => gatewaySeal(keyA, secretOf(index)));
  return secondsOf((index) => {
    const { encrypted_value, iv, auth_tag } = sealed[index % sealed.length];
    const decipher = createDecipheriv('aes-256-gcm', key, Buffer.from(iv, 'hex'), { authTagLength: 16 });
    decipher.setAuthTag(Buffer.from(auth_tag, 'hex'));
    decipher.update(encrypted_value, 'hex', 'utf8') + decipher.final('utf8');
  });
}

/** Seconds for one decrypt: the sum of one of each part. */
export function leastOfDecrypt(file, rows) {
  const key = createSecretKey(Buffer.from(keyA, 'hex'));
  const validate = new Ajv().compile({
    type: 'object',
    required: ['name'],
    additionalProperties: false,
    properties: {
      tenant_id: { type: ['string', 'null'], maxLength: 255 },
      name: { type: 'string', minLength: 1, maxLength: 255 },
    },
  });
  const log = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination('/dev/null'));
  const record = { actor: 'gateway', act: 'key.decrypt', outcome: 'done', tenant_id: tenantOf(0), name: nameOf(0), id: 'row-0' };
  const parts = {
    read: readSeconds(file, rows),
    open: openSeconds(key),
    token: secondsOf(() => hash('sha256', gatewayToken, 'buffer')),
    record: secondsOf((index) => {
      const line = JSON.stringify({ ...record, index, previous: '0'.repeat(64), request_id: randomUUID() });
      createHmac('sha256', key).update(line).digest('hex');
    }),
    body: secondsOf((index) => validate({ tenant_id: tenantOf(index), name: nameOf(index) })),
    log: secondsOf((index) => log.info({ method: 'POST', status: 200, token: 'gateway', duration_ms: index }, 'request')),
  };
  return Object.values(parts).reduce((sum, seconds) => sum + seconds, 0);
}
