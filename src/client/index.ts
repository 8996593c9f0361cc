/** `provara-vault/client`: what a gateway imports. It brings no server code along. */

export {
  VaultAuthError,
  VaultClientError,
  VaultConfigurationError,
  VaultConnectionError,
  VaultDecryptFailedError,
  type VaultErrorType,
  VaultForbiddenError,
  VaultInternalError,
  VaultNotFoundError,
  VaultPayloadTooLargeError,
  VaultRateLimitedError,
  VaultStorageUnavailableError,
  VaultTimeoutError,
  VaultUnexpectedAnswerError,
  VaultValidationError,
} from './errors.ts';
export type { KeyCacheOptions } from './key-reader.ts';
export type { CallOptions } from './transport.ts';
export { type Tenant, VaultClient, type VaultClientOptions } from './vault-client.ts';
export type * from './wire.ts';
