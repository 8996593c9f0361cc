/** The shapes of requests and answers: one source for validation, serialization and openapi.yaml. */

import type { Readable } from 'node:stream';
import { type Static, type TSchema, Type } from 'typebox';
import { errorCodes } from '../errors.ts';
import { rotationStates } from '../store/rotation-record.ts';
import { maxPlaintextBytes } from '../vault/values.ts';
import type { FormatName } from './formats.ts';

const maxItems = 1_000;
const strict = { additionalProperties: false } as const;

const Label = Type.String({
  format: 'label' satisfies FormatName,
  minLength: 1,
  maxLength: 255,
  description: 'Text of 1 to 255 bytes in UTF-8, without control characters.',
});
const TenantId = Type.Union([Label, Type.Null()], {
  description: 'Left out or null: the rows whose tenant is null, never all rows.',
});
const KeyId = Type.String({
  pattern: '^[0-9a-f]{16}$',
  description: 'The key id of a master key.',
  examples: ['77a1e1a4f0c2b9d3'],
});
const Time = Type.String({ format: 'date-time' });
/** Long enough for an id of four thousand bytes, and short enough for the 16 KiB that Node takes of headers. */
const maxCursorLength = 12_288;
const Cursor = Type.String({ minLength: 1, maxLength: maxCursorLength, description: 'The next_cursor of the page before.' });
const NextCursor = Type.Union([Type.String(), Type.Null()], {
  description: 'Null after the last page. A page may hold fewer than were asked for.',
});
const Limit = Type.Integer({ minimum: 1, maximum: maxItems, default: 100 });
const Count = Type.Integer({ minimum: 0 });
const nullable = <Schema extends TSchema>(
  schema: Schema,
): ReturnType<typeof Type.Union<[Schema, ReturnType<typeof Type.Null>]>> => Type.Union([schema, Type.Null()]);

const ErrorType = Type.Enum([...errorCodes]);
const ErrorItem = Type.Object(
  { type: ErrorType, message: Type.String(), details: Type.Optional(Type.Record(Type.String(), Type.Unknown())) },
  strict,
);
export const ErrorBody = Type.Object(
  {
    error: Type.Object(
      {
        type: ErrorType,
        message: Type.String(),
        request_id: Type.String(),
        details: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
      },
      strict,
    ),
  },
  { ...strict, $id: 'Error', description: 'What happened, to what, and what to do next.' },
);

/** The errors that every route may answer with, besides its own answers. */
const errorAnswer = Type.Unsafe<Static<typeof ErrorBody>>({
  $ref: 'Error#',
  description: 'Refused, because of the call',
});
const failureAnswer = Type.Unsafe<Static<typeof ErrorBody>>({
  $ref: 'Error#',
  description: 'Not done, because of the vault or its database',
});
export const errorAnswers = { '4xx': errorAnswer, '5xx': failureAnswer } as const;

// ── api keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

const ApiKey = Type.Object(
  {
    id: Type.String(),
    tenant_id: nullable(Type.String()),
    name: Type.String(),
    provider: Type.String(),
    masked_value: Type.String({ examples: ['••••••••abcd'] }),
    key_id: nullable(Type.String()),
    created_at: Time,
    updated_at: Time,
    last_used_at: nullable(Time),
  },
  strict,
);
export type ApiKeyAnswer = Static<typeof ApiKey>;

export const StoreBody = Type.Object(
  {
    tenant_id: Type.Optional(TenantId),
    name: Label,
    provider: Label,
    value: Type.String({
      description: `At most ${maxPlaintextBytes} bytes. Trimmed; printable ASCII, or a JSON object, which is kept byte for byte.`,
      examples: ['sample-provider-key-0001'],
    }),
  },
  strict,
);
export const StoreAnswer = Type.Object({ key: ApiKey, updated: Type.Boolean() }, strict);
export const ListQuery = Type.Object(
  {
    tenant_id: Type.Optional(Label),
    provider: Type.Optional(Label),
    limit: Type.Optional(Limit),
    cursor: Type.Optional(Cursor),
  },
  strict,
);
export const ListAnswer = Type.Object({ keys: Type.Array(ApiKey), next_cursor: NextCursor }, strict);
export const TenantQuery = Type.Object({ tenant_id: Type.Optional(Label) }, strict);
export const IdParams = Type.Object({ id: Type.String({ minLength: 1 }) }, strict);
export const GetAnswer = Type.Object({ key: ApiKey }, strict);
export const DeleteAnswer = Type.Object({ deleted: Type.Literal(true) }, strict);
export const StatusAnswer = Type.Object({ configured: Type.Boolean() }, strict);

export const DecryptKeyBody = Type.Object({ tenant_id: Type.Optional(TenantId), name: Label }, strict);
export const DecryptKeyAnswer = Type.Object(
  {
    key: Type.Object(
      {
        id: Type.String(),
        tenant_id: nullable(Type.String()),
        name: Type.String(),
        provider: Type.String(),
        value: Type.String(),
      },
      strict,
    ),
  },
  strict,
);
export const DecryptAllBody = Type.Object({ tenant_id: Type.Optional(TenantId), cursor: Type.Optional(Cursor) }, strict);
export const DecryptAllAnswer = Type.Object(
  {
    keys: Type.Array(
      Type.Object(
        {
          id: Type.String(),
          name: Type.String(),
          provider: Type.String(),
          value: Type.Optional(Type.String()),
          error: Type.Optional(ErrorItem),
        },
        { ...strict, description: 'Either value or error.' },
      ),
    ),
    next_cursor: NextCursor,
  },
  strict,
);
export const TenantsQuery = Type.Object({ limit: Type.Optional(Limit), cursor: Type.Optional(Cursor) }, strict);
export const TenantsAnswer = Type.Object(
  {
    tenants: Type.Array(Type.Object({ tenant_id: nullable(Type.String()), keys: Count }, strict)),
    next_cursor: NextCursor,
  },
  strict,
);

// ── stateless calls ─────────────────────────────────────────────────────────────────────────────────────────────────

const Context = Type.String({
  format: 'unicode' satisfies FormatName,
  maxLength: maxPlaintextBytes,
  description: 'Bound to the ciphertext: it opens only with the same context. Left out and empty differ.',
});
const HexColumn = Type.String({ pattern: '^(?:[0-9a-fA-F]{2})*$', maxLength: 16_777_216 });

const EncryptItem = Type.Object({ plaintext: Type.String(), context: Type.Optional(Context) }, strict);
export type EncryptItem = Static<typeof EncryptItem>;
const TextCiphertext = Type.Object({ ciphertext: Type.String(), context: Type.Optional(Context) }, strict);
const RowCiphertext = Type.Object(
  { encrypted_value: HexColumn, iv: HexColumn, auth_tag: HexColumn },
  { ...strict, description: 'The three columns of a row in format 1.' },
);
export const CiphertextItem = Type.Union([TextCiphertext, RowCiphertext]);
export type CiphertextItem = Static<typeof CiphertextItem>;

const batchOf = <Item extends TSchema>(item: Item) => Type.Object({ items: Type.Array(item, { maxItems }) }, strict);
export const EncryptBody = Type.Union([EncryptItem, batchOf(EncryptItem)]);
export const CiphertextBody = Type.Union([TextCiphertext, RowCiphertext, batchOf(CiphertextItem)]);

const EncryptResult = Type.Object(
  { ciphertext: Type.String({ examples: ['pv1.77a1e1a4f0c2b9d3.AAAA'] }), key_id: KeyId },
  strict,
);
const DecryptResult = Type.Object({ plaintext: Type.String(), key_id: KeyId }, strict);
const ItemError = Type.Object({ error: ErrorItem }, strict);
const itemsOf = <Result extends TSchema>(result: Result) =>
  Type.Object({ items: Type.Array(Type.Union([result, ItemError])), failed: Count }, strict);
export const EncryptAnswer = Type.Union([EncryptResult, itemsOf(EncryptResult)]);
export const DecryptAnswer = Type.Union([DecryptResult, itemsOf(DecryptResult)]);

// ── rotation ────────────────────────────────────────────────────────────────────────────────────────────────────────

const SkipIds = Type.Array(Type.String({ minLength: 1 }), {
  maxItems: 10_000,
  description: 'Rows to leave out: id, or table:id.',
});
const keyChoice = { old_key_id: Type.Optional(KeyId), new_key_id: Type.Optional(KeyId), skip_ids: Type.Optional(SkipIds) };
export const DryRunBody = Type.Object(keyChoice, strict);
export const ExecuteBody = Type.Object({ ...keyChoice, upgrade_format: Type.Optional(Type.Boolean()) }, strict);
export type ExecuteBody = Static<typeof ExecuteBody>;
export const ExecuteQuery = Type.Object({ wait: Type.Optional(Type.Integer({ minimum: 0, maximum: 600, default: 25 })) }, strict);

export const DryRunAnswer = Type.Object(
  {
    dry_run: Type.Literal(true),
    rows_scanned: Count,
    rows_old: Count,
    rows_new: Count,
    rows_failed: Count,
    rows_skipped: Count,
    from_key_id: KeyId,
    to_key_id: KeyId,
    tables: Type.Array(Type.Object({ table: Type.String(), rows: Count }, strict)),
    warnings: Type.Array(Type.String()),
    message: Type.String(),
  },
  strict,
);
const Rotation = Type.Object(
  {
    id: Type.String(),
    state: Type.Enum([...rotationStates]),
    rows_scanned: Count,
    rows_rotated: Count,
    rows_already_rotated: Count,
    rows_skipped: Count,
    rows_verified: Count,
    from_key_id: KeyId,
    to_key_id: KeyId,
    upgrade_format: Type.Boolean(),
    started_at: Time,
    finished_at: nullable(Time),
    progress: nullable(
      Type.Object(
        {
          rows_done: Count,
          rows_total: Count,
          rows_per_second: Type.Number({ minimum: 0 }),
          seconds_left: nullable(Count),
        },
        { ...strict, description: 'Of the present phase; some seconds old if another process runs the rotation.' },
      ),
    ),
    snapshot: nullable(
      Type.Object(
        { path: Type.String(), sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) },
        {
          ...strict,
          description: 'Written before anything else if VAULT_SNAPSHOT_DIR is set; null if nothing was to be rotated.',
        },
      ),
    ),
    error: nullable(Type.String()),
    warnings: Type.Array(Type.String()),
    message: Type.String(),
  },
  strict,
);
export type RotationAnswer = Static<typeof Rotation>;
export const RotationEnvelope = Type.Object({ rotation: Rotation }, strict);
export const RotationsAnswer = Type.Object({ running: nullable(Rotation), last: nullable(Rotation) }, strict);

export const EmptyBody = Type.Object({}, strict);
export const VerifyAnswer = Type.Object(
  {
    rows_scanned: Count,
    rows_by_key_id: Type.Record(Type.String(), Count),
    rows_failed: Count,
    failures: Type.Array(Type.Object({ table: Type.String(), id: Type.String(), reason: Type.String() }, strict)),
  },
  strict,
);
export const MasterKeysAnswer = Type.Object(
  {
    active_key_id: nullable(KeyId),
    keys: Type.Array(
      Type.Object(
        {
          key_id: KeyId,
          source: nullable(Type.String({ examples: ['PROVARA_MASTER_KEY'] })),
          state: Type.Enum(['active', 'staged', 'retired']),
          rows: nullable(Count),
          age_days: Count,
          rotation_due: Type.Boolean(),
          safe_to_retire: Type.Boolean(),
          stateless_last_used_at: nullable(Time),
        },
        strict,
      ),
    ),
    replicas: Type.Array(Type.Object({ id: Type.String(), host: Type.String(), key_ids: Type.Array(KeyId) }, strict), {
      description: 'The service processes that live, with the keys that each holds.',
    }),
  },
  strict,
);

// ── snapshots ───────────────────────────────────────────────────────────────────────────────────────────────────────

const SnapshotLines = Type.Unsafe<Readable>({ type: 'string', description: 'One JSON value per line: see docs/formats.md.' });
export const SnapshotAnswer = {
  description: 'The snapshot',
  content: { 'application/x-ndjson': { schema: SnapshotLines } },
} as const;
/** Read as a stream, and checked while it is read. */
export const RestoreBody = {
  content: { 'application/x-ndjson': { schema: Type.Unsafe({ description: 'A snapshot of at most 1 GiB.' }) } },
} as const;
export const RestoreQuery = Type.Object({ mode: Type.Optional(Type.Enum(['merge', 'replace'], { default: 'merge' })) }, strict);
export const RestoreAnswer = Type.Object({ restored: Count, kept: Count }, strict);

// ── audit ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export const AuditQuery = Type.Object(
  {
    after: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: maxCursorLength,
        description: 'A next_cursor, or the cursor of the last record seen.',
      }),
    ),
    limit: Type.Optional(Limit),
  },
  strict,
);
const AuditRecord = Type.Object(
  {
    cursor: Type.String(),
    time: nullable(Type.String()),
    actor: nullable(Type.String({ description: 'The name of the token, or cli, or vault.' })),
    role: nullable(Type.String()),
    request_id: nullable(Type.String()),
    act: nullable(Type.String({ examples: ['key.store'] })),
    outcome: nullable(Type.String({ description: 'done, or the type of the error that it ended with.' })),
    tenant_id: nullable(Type.String()),
    name: nullable(Type.String()),
    id: nullable(Type.String()),
    details: nullable(Type.Record(Type.String(), Type.Unknown())),
    chain: nullable(Type.String()),
    seq: nullable(Type.Integer()),
  },
  { ...strict, description: 'If the record cannot be read, everything but the cursor is null.' },
);
export type AuditRecordAnswer = Static<typeof AuditRecord>;
export const AuditAnswer = Type.Object({ records: Type.Array(AuditRecord), next_cursor: NextCursor }, strict);

// ── machines ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Sent as text that is serialized once. */
export const OpenApiAnswer = Type.Unsafe<string>({ type: 'object', additionalProperties: true });
export const MetricsAnswer = {
  description: 'The metrics of this process, and of the state that all processes share',
  content: { 'text/plain': { schema: Type.String() } },
} as const;
export const HealthAnswer = Type.Object({ status: Type.Literal('ok') }, strict);
export const ReadyAnswer = Type.Object({ status: Type.Literal('ready'), warnings: Type.Array(Type.String()) }, strict);
