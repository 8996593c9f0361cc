/** Snapshots as an operator takes and sends them, and the tables as stored on disk. */

import { createHash, createHmac } from 'node:crypto';
import { parseMasterKey, snapshotKeyOf } from '../../src/crypto/master-key.ts';
import type { GatewayDatabase } from './gateway.ts';
import { adminToken, type TestVault } from './vault.ts';

export async function takeSnapshot({ origin }: Pick<TestVault, 'origin'>): Promise<string> {
  const response = await fetch(`${origin}/admin/snapshot`, { headers: { authorization: `Bearer ${adminToken}` } });
  if (response.status !== 200) throw new Error(await response.text());
  return response.text();
}

export async function sendSnapshot(
  { origin }: Pick<TestVault, 'origin'>,
  body: string | Buffer,
  mode: string | null = null,
  type = 'application/x-ndjson',
) {
  const response = await fetch(`${origin}/admin/restore${mode === null ? '' : `?mode=${mode}`}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminToken}`, 'content-type': type },
    body,
  });
  // biome-ignore lint/suspicious/noExplicitAny: tests reach into answers of every shape
  return { status: response.status, body: JSON.parse(await response.text()) as any };
}

/** The lines with a valid trailer under this key. */
export function signed(lines: readonly string[], masterKey: string): string {
  const key = parseMasterKey(masterKey);
  const text = lines.map((line) => `${line}\n`).join('');
  const digest = createHash('sha256').update(text).digest();
  const hmac = createHmac('sha256', snapshotKeyOf(key)).update(digest).digest('hex');
  return `${text}${JSON.stringify({ rows: lines.length - 1, sha256: digest.toString('hex'), key_id: key.id, hmac })}\n`;
}

export function linesOf(snapshot: string): string[] {
  return snapshot.trimEnd().split('\n');
}

/** Every byte of a table: the type and the bytes of each column, and the row ids. */
export async function bytesOf({ client }: GatewayDatabase, table: string): Promise<unknown[]> {
  const { rows: columns } = await client.execute(`SELECT name FROM pragma_table_info('${table}')`);
  const coded = columns.map(
    ({ name }) => `CASE typeof("${name}") WHEN 'real' THEN format('real:%!.17g', "${name}")
    ELSE typeof("${name}") || ':' || hex(CAST("${name}" AS blob)) END AS "${name}"`,
  );
  const { rows } = await client.execute(`SELECT CAST(rowid AS text) AS row_id, ${coded.join(', ')} FROM ${table} ORDER BY rowid`);
  return rows.map((row) => ({ ...row }));
}
