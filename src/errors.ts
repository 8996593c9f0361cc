/** Every error that a caller of the vault can meet, each with a stable code and a message fit for that caller. */

export const errorCodes = [
  'validation_error',
  'auth_error',
  'forbidden',
  'not_found',
  'rotation_in_progress',
  'replica_missing_key',
  'payload_too_large',
  'unsupported_media_type',
  'rate_limited',
  'decrypt_failed',
  'decrypt_gate_failed',
  'uncovered_table',
  'invalid_snapshot',
  'configuration_error',
  'storage_unavailable',
  'internal_error',
] as const;

export type ErrorCode = (typeof errorCodes)[number];

export type ErrorDetails = Readonly<Record<string, unknown>>;

/** What a caller learns about an error, over HTTP and from the command line's `--json`. */
export interface ErrorAnswer {
  readonly type: ErrorCode;
  readonly message: string;
  readonly details?: ErrorDetails;
}

/** The base of the family. Neither `message` nor `details` ever holds a secret: both are sent to callers. */
export abstract class VaultError extends Error {
  abstract readonly code: ErrorCode;
  readonly details: ErrorDetails | undefined;
  /** After how many seconds a retry may succeed; null if it would not. */
  readonly retryAfterSeconds: number | null = null;

  constructor(message: string, details?: ErrorDetails) {
    super(message);
    this.name = new.target.name;
    this.details = details;
  }

  toAnswer(): ErrorAnswer {
    return { type: this.code, message: this.message, ...(this.details && { details: this.details }) };
  }
}

/** The request is invalid: nothing was read or changed. */
export class ValidationError extends VaultError {
  readonly code = 'validation_error';
}

/** No token, or one that is not configured. */
export class AuthError extends VaultError {
  readonly code = 'auth_error';
}

/** A known token whose role or tenants do not allow the call. */
export class ForbiddenError extends VaultError {
  readonly code = 'forbidden';
}

/** Too many calls for now. Safe to retry after `retryAfterSeconds`. */
export class RateLimitedError extends VaultError {
  readonly code = 'rate_limited';
  override readonly retryAfterSeconds: number;

  constructor(message: string, retryAfterSeconds: number) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** It does not exist or belongs to another tenant: the two look the same. */
export class NotFoundError extends VaultError {
  readonly code = 'not_found';
}

/** Another rotation holds the lease, or an unfinished one was begun with other keys. */
export class RotationInProgressError extends VaultError {
  readonly code = 'rotation_in_progress';
}

/** A live replica lacks a key that the rotation needs: it could not read what the rotation writes. */
export class ReplicaMissingKeyError extends VaultError {
  readonly code = 'replica_missing_key';
}

/** A ciphertext did not open. The message is the same for every cause, so that it tells an attacker nothing. */
export class DecryptFailedError extends VaultError {
  readonly code = 'decrypt_failed';

  constructor() {
    super('The ciphertext could not be decrypted.');
  }
}

/** At least one row opens with neither key of a rotation. `details.failures` names the rows; nothing was written. */
export class DecryptGateFailedError extends VaultError {
  readonly code = 'decrypt_gate_failed';
}

/** A table holds rows of the encrypted shape that the rotation would leave behind. */
export class UncoveredTableError extends VaultError {
  readonly code = 'uncovered_table';
}

/** A snapshot is incomplete, not authentic, or does not fit this vault. `details.reason` says which; nothing was written. */
export class InvalidSnapshotError extends VaultError {
  readonly code = 'invalid_snapshot';
}

/** More bytes than the route accepts. */
export class PayloadTooLargeError extends VaultError {
  readonly code = 'payload_too_large';
}

/** A body of a type that the route does not accept. */
export class UnsupportedMediaTypeError extends VaultError {
  readonly code = 'unsupported_media_type';
}

/** The environment does not fit the database: a needed key is not in the keyring, or a table is missing. */
export class ConfigurationError extends VaultError {
  readonly code = 'configuration_error';
}

/**
 * The database did not answer, or could not accept the write. The call may be retried after `retryAfterSeconds`.
 * `details.may_be_done` is true if a write was sent and its outcome is unknown: a retry could then overwrite what others have
 * written since.
 */
export class StorageUnavailableError extends VaultError {
  readonly code = 'storage_unavailable';
  override readonly retryAfterSeconds = 1;
}

/** The answer is larger than the database sends at once; a call that asks for less may succeed. */
export class AnswerTooLargeError extends StorageUnavailableError {}

/** The process is overloaded: the request was refused before any of it was done. */
export function overloaded(): StorageUnavailableError {
  return new StorageUnavailableError('The vault is overloaded: nothing was done, try again.');
}

type SimpleError = new (message: string, details?: ErrorDetails) => VaultError;

/** For every code but two: nothing on another thread limits rates, and an unexpected error has no class. */
const classes: Readonly<Record<Exclude<ErrorCode, 'rate_limited' | 'internal_error'>, SimpleError>> = {
  validation_error: ValidationError,
  auth_error: AuthError,
  forbidden: ForbiddenError,
  not_found: NotFoundError,
  rotation_in_progress: RotationInProgressError,
  replica_missing_key: ReplicaMissingKeyError,
  payload_too_large: PayloadTooLargeError,
  unsupported_media_type: UnsupportedMediaTypeError,
  decrypt_failed: DecryptFailedError,
  decrypt_gate_failed: DecryptGateFailedError,
  uncovered_table: UncoveredTableError,
  invalid_snapshot: InvalidSnapshotError,
  configuration_error: ConfigurationError,
  storage_unavailable: StorageUnavailableError,
};

/** Recreates the error of an operation on another thread. */
export function errorWithCode(code: ErrorCode, message: string, details: ErrorDetails | undefined): Error {
  if (code === 'rate_limited' || code === 'internal_error') return new Error(message);
  return new classes[code](message, details);
}
