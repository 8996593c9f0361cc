/** The shapes of requests and answers, written from the schemas of the server by test/client/wire.test.ts: run it with -u. */

export type ApiKey = {
  readonly id: string;
  readonly tenant_id: string | null;
  readonly name: string;
  readonly provider: string;
  readonly masked_value: string;
  readonly key_id: string | null;
  readonly created_at: string;
  readonly updated_at: string;
  readonly last_used_at: string | null;
};

export type StoreKeyBody = {
  /** Left out or null: the rows whose tenant is null, never all rows. */
  readonly tenant_id?: string | null | undefined;
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly name: string;
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly provider: string;
  /** At most 65536 bytes. Trimmed; printable ASCII, or a JSON object, which is kept byte for byte. */
  readonly value: string;
};

export type StoreKeyAnswer = {
  readonly key: ApiKey;
  readonly updated: boolean;
};

export type GetKeyAnswer = {
  readonly key: ApiKey;
};

export type TenantQuery = {
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly tenant_id?: string | undefined;
};

export type ListKeysQuery = {
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly tenant_id?: string | undefined;
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly provider?: string | undefined;
  readonly limit?: number | undefined;
  /** The next_cursor of the page before. */
  readonly cursor?: string | undefined;
};

export type ListKeysAnswer = {
  readonly keys: readonly ApiKey[];
  /** Null after the last page. A page may hold fewer than were asked for. */
  readonly next_cursor: string | null;
};

export type DecryptedKey = {
  readonly id: string;
  readonly tenant_id: string | null;
  readonly name: string;
  readonly provider: string;
  readonly value: string;
};

export type DecryptKeyBody = {
  /** Left out or null: the rows whose tenant is null, never all rows. */
  readonly tenant_id?: string | null | undefined;
  /** Text of 1 to 255 bytes in UTF-8, without control characters. */
  readonly name: string;
};

export type DecryptKeyAnswer = {
  readonly key: DecryptedKey;
};

export type ErrorType =
  | 'validation_error'
  | 'auth_error'
  | 'forbidden'
  | 'not_found'
  | 'rotation_in_progress'
  | 'replica_missing_key'
  | 'payload_too_large'
  | 'unsupported_media_type'
  | 'rate_limited'
  | 'decrypt_failed'
  | 'decrypt_gate_failed'
  | 'uncovered_table'
  | 'invalid_snapshot'
  | 'configuration_error'
  | 'storage_unavailable'
  | 'internal_error';

export type ErrorItem = {
  readonly type: ErrorType;
  readonly message: string;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
};

/** Either value or error. */
export type DecryptedEntry = {
  readonly id: string;
  readonly name: string;
  readonly provider: string;
  readonly value?: string | undefined;
  readonly error?: ErrorItem | undefined;
};

export type DecryptAllBody = {
  /** Left out or null: the rows whose tenant is null, never all rows. */
  readonly tenant_id?: string | null | undefined;
  /** The next_cursor of the page before. */
  readonly cursor?: string | undefined;
};

export type DecryptAllAnswer = {
  readonly keys: readonly DecryptedEntry[];
  /** Null after the last page. A page may hold fewer than were asked for. */
  readonly next_cursor: string | null;
};

export type TenantCount = {
  readonly tenant_id: string | null;
  readonly keys: number;
};

export type TenantsQuery = {
  readonly limit?: number | undefined;
  /** The next_cursor of the page before. */
  readonly cursor?: string | undefined;
};

export type TenantsAnswer = {
  readonly tenants: readonly TenantCount[];
  /** Null after the last page. A page may hold fewer than were asked for. */
  readonly next_cursor: string | null;
};

export type StatusAnswer = {
  readonly configured: boolean;
};

export type EncryptItem = {
  readonly plaintext: string;
  /** Bound to the ciphertext: it opens only with the same context. Left out and empty differ. */
  readonly context?: string | undefined;
};

export type CiphertextItem =
  | {
      readonly ciphertext: string;
      /** Bound to the ciphertext: it opens only with the same context. Left out and empty differ. */
      readonly context?: string | undefined;
    }
  | {
      readonly encrypted_value: string;
      readonly iv: string;
      readonly auth_tag: string;
    };

export type EncryptResult = {
  readonly ciphertext: string;
  /** The key id of a master key. */
  readonly key_id: string;
};

export type DecryptResult = {
  readonly plaintext: string;
  /** The key id of a master key. */
  readonly key_id: string;
};

export type EncryptBatchAnswer = {
  readonly items: readonly (
    | EncryptResult
    | {
        readonly error: ErrorItem;
      }
  )[];
  readonly failed: number;
};

export type DecryptBatchAnswer = {
  readonly items: readonly (
    | DecryptResult
    | {
        readonly error: ErrorItem;
      }
  )[];
  readonly failed: number;
};

/** What happened, to what, and what to do next. */
export type ErrorBody = {
  readonly error: {
    readonly type: ErrorType;
    readonly message: string;
    readonly request_id: string;
    readonly details?: Readonly<Record<string, unknown>> | undefined;
  };
};
