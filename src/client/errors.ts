/**
 * Every error of the client: one class for each type of the contract, and those for a vault that was not reached. None holds a
 * secret.
 */

import type { ErrorCode } from '../errors.ts';

/** The client's own types: no answer, none in time, or one that is not the vault's. */
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
  /** The HTTP status, or null if there was no answer. */
  readonly status: number | null;
  /** The call's id in the vault's log. */
  readonly requestId: string;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  /** Seconds after the answer at which the vault allows a retry. */
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

/** 400: the request is invalid. */
export class VaultValidationError extends VaultClientError {}
/** 401: no token, or one that the vault does not know. */
export class VaultAuthError extends VaultClientError {}
/** 403: the token's role or tenants do not allow this. */
export class VaultForbiddenError extends VaultClientError {}
/** 404: it does not exist, or belongs to another tenant. */
export class VaultNotFoundError extends VaultClientError {}
/** 413: more bytes than the call accepts. */
export class VaultPayloadTooLargeError extends VaultClientError {}
/** 422: the ciphertext does not open. */
export class VaultDecryptFailedError extends VaultClientError {}
/** 429: too many requests for now; see `retryAfterSeconds`. */
export class VaultRateLimitedError extends VaultClientError {}
/** 503: the vault lacks the master key that the call needs. */
export class VaultConfigurationError extends VaultClientError {}
/** 503: the vault's database does not answer, or the vault is overloaded. */
export class VaultStorageUnavailableError extends VaultClientError {}
/** 500: the vault failed; its log has the cause under `requestId`. */
export class VaultInternalError extends VaultClientError {}
/** No connection, or it broke before the whole answer arrived. Whether the call was carried out is unknown. */
export class VaultConnectionError extends VaultClientError {}
/** No complete answer in time. Whether the call was carried out is unknown. */
export class VaultTimeoutError extends VaultClientError {}
/** Something answered that is not the vault, such as a proxy's page. */
export class VaultUnexpectedAnswerError extends VaultClientError {}

type ErrorClass = new (message: string, fields: VaultErrorFields) => VaultClientError;

/** Types missing here concern operators; the vault answers none of the client's calls with them. */
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

/** Whether this type is the client's own: an answer that claims it does not come from the vault. */
export function isOwnType(type: string): boolean {
  return ownTypes.some((own) => own === type);
}

/** Codes that mean no connection was made, so that nothing was sent. */
const unconnectedCodes = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'];

/**
 * Whether the call was certainly not carried out: it was refused or never sent. If an answer was lost, or came from a proxy, that
 * is unknown.
 */
export function isNotDone(error: unknown): boolean {
  if (error instanceof VaultRateLimitedError) return true;
  if (error instanceof VaultStorageUnavailableError) return error.details?.may_be_done !== true;
  return error instanceof VaultConnectionError && unconnectedCodes.includes(String(error.details?.code));
}

/** Whether the vault, or something that it depends on, was unavailable, so that the error says nothing about the call itself. */
export function isUnreachable(error: unknown): error is VaultClientError {
  if (error instanceof VaultConnectionError || error instanceof VaultTimeoutError) return true;
  if (error instanceof VaultStorageUnavailableError) return true;
  return error instanceof VaultUnexpectedAnswerError && (error.status ?? 0) >= 502;
}
