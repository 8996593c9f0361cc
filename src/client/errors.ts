/** Every error of the client: the contract's, a class each, and those of a vault that was not reached. None holds a secret. */

import type { ErrorCode } from '../errors.ts';

/** No answer, none in time, or one that is not the vault's. */
const ownTypes = ['connection_error', 'timeout', 'unexpected_answer'] as const;
/** The types of the contract, and the client's own. */
export type VaultErrorType = ErrorCode | (typeof ownTypes)[number];

export interface VaultErrorFields {
  readonly type: VaultErrorType;
  readonly status: number | null;
  readonly requestId: string;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly retryAfterSeconds?: number | undefined;
}

/** The base of the family. */
export class VaultClientError extends Error {
  readonly type: VaultErrorType;
  /** The HTTP status, or null where there was no answer. */
  readonly status: number | null;
  /** The call's id in the vault's log. */
  readonly requestId: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  /** When the vault said that the call may be repeated, in seconds from its answer. */
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, { type, status, requestId, details, retryAfterSeconds }: VaultErrorFields) {
    super(message);
    this.name = new.target.name;
    this.type = type;
    this.status = status;
    this.requestId = requestId;
    this.details = details;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** 400: the request cannot be meant. */
export class VaultValidationError extends VaultClientError {}
/** 401: no token, or one that the vault does not know. */
export class VaultAuthError extends VaultClientError {}
/** 403: the token's role or tenants do not allow this. */
export class VaultForbiddenError extends VaultClientError {}
/** 404: no such thing, or another tenant's. */
export class VaultNotFoundError extends VaultClientError {}
/** 413: more bytes than the call takes. */
export class VaultPayloadTooLargeError extends VaultClientError {}
/** 422: the ciphertext does not open. */
export class VaultDecryptFailedError extends VaultClientError {}
/** 429: too much for now; see `retryAfterSeconds`. */
export class VaultRateLimitedError extends VaultClientError {}
/** 503: the vault lacks the master key that this needs. */
export class VaultConfigurationError extends VaultClientError {}
/** 503: the vault's database does not answer, or the vault has too much to do. */
export class VaultStorageUnavailableError extends VaultClientError {}
/** 500: the vault failed; its log says why under `requestId`. */
export class VaultInternalError extends VaultClientError {}
/** No connection, or one that broke before the whole answer was there. Whether the call was carried out is not known. */
export class VaultConnectionError extends VaultClientError {}
/** No whole answer in time. Whether the call was carried out is not known. */
export class VaultTimeoutError extends VaultClientError {}
/** Something answered that is not the vault, such as a proxy's page. */
export class VaultUnexpectedAnswerError extends VaultClientError {}

type ErrorClass = new (message: string, fields: VaultErrorFields) => VaultClientError;

/** What is not listed here is an operator's business, and no call of the client is answered with it. */
const classByType = new Map<VaultErrorType, ErrorClass>([
  ['validation_error', VaultValidationError],
  ['auth_error', VaultAuthError],
  ['forbidden', VaultForbiddenError],
  ['not_found', VaultNotFoundError],
  ['payload_too_large', VaultPayloadTooLargeError],
  ['decrypt_failed', VaultDecryptFailedError],
  ['rate_limited', VaultRateLimitedError],
  ['configuration_error', VaultConfigurationError],
  ['storage_unavailable', VaultStorageUnavailableError],
  ['internal_error', VaultInternalError],
  ['connection_error', VaultConnectionError],
  ['timeout', VaultTimeoutError],
  ['unexpected_answer', VaultUnexpectedAnswerError],
]);

export function createError(message: string, fields: VaultErrorFields): VaultClientError {
  const Class = classByType.get(fields.type) ?? VaultClientError;
  return new Class(message, fields);
}

/** Whether the client alone says so: an answer that claims such a type is not the vault's. */
export function isOwnType(type: string): boolean {
  return ownTypes.some((own) => own === type);
}

/** Where no connection came about, so that nothing was sent. */
const unconnectedCodes = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'];

/** Whether the call was refused or never sent. Of an answer that was lost, or a proxy's, nobody knows whether it was carried out. */
export function isNotDone(error: unknown): boolean {
  if (error instanceof VaultRateLimitedError) return true;
  if (error instanceof VaultStorageUnavailableError) return error.details?.may_be_done !== true;
  return error instanceof VaultConnectionError && unconnectedCodes.includes(String(error.details?.code));
}

/** Whether the vault, or what it stands on, was not there to say yes or no. */
export function isUnreachable(error: unknown): error is VaultClientError {
  if (error instanceof VaultConnectionError || error instanceof VaultTimeoutError) return true;
  if (error instanceof VaultStorageUnavailableError) return true;
  return error instanceof VaultUnexpectedAnswerError && (error.status ?? 0) >= 502;
}
