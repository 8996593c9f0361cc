/** The tokens that callers authenticate with: only their digests are kept, and each has a name and one role. */

import { createHash } from 'node:crypto';
import type { SettingsReader } from './settings.ts';

export type Role = 'gateway' | 'admin';

export interface Token {
  readonly name: string;
  readonly role: Role;
  /** SHA-256. */
  readonly digest: Buffer;
}

const tokenVariables: Readonly<Record<Role, string>> = {
  gateway: 'VAULT_GATEWAY_TOKENS',
  admin: 'VAULT_ADMIN_TOKENS',
};

const sha256Prefix = 'sha256:';
const sha256Hex = /^[0-9a-f]{64}$/i;

export function digestOf(token: string): Buffer {
  return createHash('sha256').update(token, 'utf8').digest();
}

/** Reads the `name:token` pairs of every role; what is wrong with them goes to the reader's problems. */
export function readTokens(reader: SettingsReader): readonly Token[] {
  const roles = Object.keys(tokenVariables) as Role[];
  const tokens = roles.flatMap((role) => readRole(reader, role));
  const roleByDigest = new Map<string, Role>();
  for (const { digest, role } of tokens) {
    const other = roleByDigest.get(digest.toString('hex'));
    if (other !== undefined && other !== role) {
      reader.problem(`${tokenVariables[other]} and ${tokenVariables[role]} share a token: one token has one role.`);
    }
    roleByDigest.set(digest.toString('hex'), role);
  }
  return tokens;
}

function readRole(reader: SettingsReader, role: Role): Token[] {
  const variable = tokenVariables[role];
  const pairs = reader.list(variable);
  if (pairs === undefined || pairs.length === 0) {
    reader.problem(`${variable} is required: name:token pairs, comma-separated.`);
    return [];
  }
  return pairs.flatMap((pair, index) => {
    const token = parsePair(pair, role);
    if (token === null) reader.problem(`${variable}: entry ${index + 1} is not name:token or name:sha256:<64 hex characters>.`);
    return token ?? [];
  });
}

/** Null where it is malformed. `: , @ |` inside a name or token are %-encoded. */
function parsePair(pair: string, role: Role): Token | null {
  const separator = pair.indexOf(':');
  const encodedName = pair.slice(0, Math.max(separator, 0));
  const name = decode(encodedName);
  const secret = pair.slice(separator + 1);
  if (separator < 1 || name === null || encodedName.includes('@')) return null;
  if (secret.startsWith(sha256Prefix)) {
    const hex = secret.slice(sha256Prefix.length);
    return sha256Hex.test(hex) ? { name, role, digest: Buffer.from(hex, 'hex') } : null;
  }
  const token = decode(secret);
  return token === null || token === '' || /\s/.test(token) ? null : { name, role, digest: digestOf(token) };
}

function decode(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
