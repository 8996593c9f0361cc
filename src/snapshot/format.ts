/** The lines of a snapshot, written and read in exactly one spelling: see docs/formats.md. */

import { createHmac } from 'node:crypto';
import { type Static, type TSchema, Type } from 'typebox';
import type { Validator } from 'typebox/compile';
import { type MasterKey, snapshotKeyOf } from '../crypto/master-key.ts';
import { InvalidSnapshotError } from '../errors.ts';

const snapshotFormat = 'provara-vault/snapshot/1';
/** How every snapshot begins. */
export const snapshotStart = JSON.stringify({ format: snapshotFormat }).slice(0, -1);
/** Limit for a line with its line feed: it fits into one value of a database on a server. */
export const maxLineBytes = 4 * 1024 * 1024;

const strict = { additionalProperties: false } as const;
const KeyId = Type.String({ pattern: '^[0-9a-f]{16}$' });
const Digest = Type.String({ pattern: '^[0-9a-f]{64}$' });
const Hex = Type.String({ pattern: '^(?:[0-9a-f]{2})*$' });
const Count = Type.Integer({ minimum: 0 });
const rowIdPattern = '^(?:0|-?[1-9][0-9]{0,18})$';

const Header = Type.Object(
  {
    format: Type.Literal(snapshotFormat),
    created_at: Type.String({ pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z$' }),
    active_key_id: KeyId,
    key_ids: Type.Array(KeyId),
    rows_unopened: Count,
    tables: Type.Array(
      Type.Object({ table: Type.String(), columns: Type.Array(Type.String(), { minItems: 1 }), rows: Count }, strict),
    ),
  },
  strict,
);
const Cell = Type.Union([
  Type.Null(),
  Type.String({ pattern: '^[ -~]*$' }),
  Type.Object({ text: Hex }, strict),
  Type.Object({ integer: Type.String({ pattern: rowIdPattern }) }, strict),
  Type.Object({ real: Type.String({ pattern: '^-?[0-9]+(?:\\.[0-9]+)?(?:e[+-]?[0-9]+)?$' }) }, strict),
  Type.Object({ blob: Hex }, strict),
]);
const RowLine = Type.Object(
  { table: Type.String(), rowid: Type.String({ pattern: rowIdPattern }), cells: Type.Array(Cell) },
  strict,
);
const Trailer = Type.Object({ rows: Count, sha256: Digest, key_id: KeyId, hmac: Digest }, strict);

export type SnapshotHeader = Omit<Static<typeof Header>, 'format'>;
export type SnapshotTable = SnapshotHeader['tables'][number];
export type SnapshotRow = Static<typeof RowLine>;
export type SnapshotTrailer = Static<typeof Trailer>;

export type RefusalReason =
  | 'truncated'
  | 'edited'
  | 'foreign'
  | 'malformed'
  | 'missing_key'
  | 'row_does_not_open'
  | 'table_not_covered'
  | 'table_not_found'
  | 'unknown_columns'
  | 'constraint';

export function refusal(
  reason: RefusalReason,
  message: string,
  details: Readonly<Record<string, unknown>> = {},
): InvalidSnapshotError {
  return new InvalidSnapshotError(`The snapshot is refused: ${message}. Nothing was written.`, { reason, ...details });
}

export function writeHeader(header: SnapshotHeader): string {
  return `${JSON.stringify({ format: snapshotFormat, ...header })}\n`;
}

/** `cells`: JSON as encoded by the store. */
export function writeRow(table: string, rowId: string, cells: string): string {
  return `{"table":${JSON.stringify(table)},"rowid":"${rowId}","cells":${cells}}\n`;
}

/** The trailer's HMAC, over the SHA-256 of all lines before it. */
export function hmacOf(key: MasterKey, digest: Buffer): string {
  return createHmac('sha256', snapshotKeyOf(key)).update(digest).digest('hex');
}

export function writeTrailer(trailer: SnapshotTrailer): string {
  return `${JSON.stringify(trailer)}\n`;
}

/** Throws InvalidSnapshotError. */
export async function readHeader(line: Buffer): Promise<SnapshotHeader> {
  const { format, ...header } = (await readLine(Header, line)) ?? malformed('its first line is no header');
  const names = header.tables.map(({ table }) => table);
  if (new Set(names).size !== names.length) malformed('its header names a table twice');
  for (const { table, columns } of header.tables) {
    if (new Set(columns).size !== columns.length) malformed(`its header names a column of ${table} twice`);
  }
  return header;
}

/** Throws InvalidSnapshotError. */
export async function readRow(line: Buffer, number: number): Promise<SnapshotRow> {
  return (await readLine(RowLine, line)) ?? malformed(`its line ${number} is no row`);
}

/** Null if the line is not a trailer. */
export async function readTrailer(line: Buffer): Promise<SnapshotTrailer | null> {
  return readLine(Trailer, line);
}

/** Throws InvalidSnapshotError. */
export function malformed(message: string): never {
  throw refusal('malformed', message);
}

/** The line's value if it has this shape and is spelt exactly as it would be written. */
async function readLine<Schema extends TSchema>(schema: Schema, line: Buffer): Promise<Static<Schema> | null> {
  const validator = await validatorOf(schema);
  const text = line.toString('utf8');
  try {
    const value: unknown = JSON.parse(text);
    return `${JSON.stringify(value)}\n` === text && validator.Check(value) ? (value as Static<Schema>) : null;
  } catch {
    return null;
  }
}

const validators = new Map<TSchema, Promise<Validator>>();

/** A compiled schema checks a row eighty times faster, but compiling takes some 20 ms, and most processes read no snapshot. */
function validatorOf(schema: TSchema): Promise<Validator> {
  const validator = validators.get(schema) ?? import('typebox/compile').then(({ Compile }) => Compile(schema));
  validators.set(schema, validator);
  return validator;
}
