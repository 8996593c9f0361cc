/**
 * The tokens that callers authenticate with: only their digests are kept, and each has a name, one role and optionally a list of
 * tenants.
 */

import { hash } from 'node:crypto';
import { isLabel } from './contract/formats.ts';
import { percentDecoded, type SettingsReader } from './settings.ts';

export type Role = 'gateway' | 'admin' | 'writer' | 'metrics';

export interface Token {
  readonly name: string;
  readonly role: Role;
  /** SHA-256. */
  readonly digest: Buffer;
  /** The only tenants whose rows the token reaches, never the null tenant; null if it is not limited. */
  readonly tenants: ReadonlySet<string> | null;
}

interface RoleSetting {
  readonly variable: string;
  readonly isRequired: boolean;
  readonly mayNameTenants: boolean;
}

const settingByRole: Readonly<Record<Role, RoleSetting>> = {
  gateway: { variable: 'VAULT_GATEWAY_TOKENS', isRequired: true, mayNameTenants: true },
  admin: { variable: 'VAULT_ADMIN_TOKENS', isRequired: true, mayNameTenants: false },
  writer: { variable: 'VAULT_WRITER_TOKENS', isRequired: false, mayNameTenants: true },
  metrics: { variable: 'VAULT_METRICS_TOKENS', isRequired: false, mayNameTenants: false },
};

/** A token, with the result of checking its secret, which is then forgotten. */
interface ParsedEntry {
  readonly token: Token;
  /** Null if the token is strong, or if only its digest was given, which reveals nothing about its strength. */
  readonly weakness: string | null;
}

const sha256Prefix = 'sha256:';
const sha256Hex = /^[0-9a-f]{64}$/i;

const minCharacters = 16;
/** Sixteen random hex characters have fewer distinct ones than this about once in twenty thousand. */
const minDifferentCharacters = 6;

/** Words that unchanged default tokens are made of. A longer word precedes its own prefixes. */
const defaultWords =
  /changeme|change|replace|placeholder|password|passwd|passphrase|default|example|letmein|secret|gateway|metrics|provara|writer|bearer|tokens|token|admin|vault|todo|test|your|here|demo|key|api|this|dev|my|me|xxx/gi;

export function digestOf(token: string): Buffer {
  return hash('sha256', token, 'buffer');
}

/** Reads the tokens of every role, and reports problems to the reader. In production weak tokens are refused. */
export function readTokens(reader: SettingsReader, isProduction: boolean): readonly Token[] {
  const roles = Object.keys(settingByRole) as Role[];
  const tokens = roles.flatMap((role) => readRole(reader, role, isProduction));
  const roleByDigest = new Map<string, Role>();
  for (const { digest, role } of tokens) {
    const other = roleByDigest.get(digest.toString('hex'));
    if (other !== undefined) reader.problem(sharedTokenProblem(other, role));
    roleByDigest.set(digest.toString('hex'), role);
  }
  return tokens;
}

function sharedTokenProblem(one: Role, other: Role): string {
  const { variable } = settingByRole[one];
  if (one === other) return `${variable} holds one token twice: a token has one name and one list of tenants.`;
  return `${variable} and ${settingByRole[other].variable} share a token: one token has one role.`;
}

function readRole(reader: SettingsReader, role: Role, isProduction: boolean): Token[] {
  const { variable, isRequired } = settingByRole[role];
  const entries = reader.list(variable);
  if (entries === undefined && !isRequired) return [];
  if (entries === undefined || entries.length === 0) {
    reader.problem(
      `${variable} is required${isRequired ? '' : ' to hold a token where it is set'}: name:token pairs, comma-separated.`,
    );
    return [];
  }
  const tokens = entries.map((text, index) => readEntry(reader, role, text, { place: index + 1, isProduction }));
  tokens.forEach((token, index) => {
    const namesake = tokens.findIndex((other) => token !== null && other?.name === token.name);
    if (namesake >= 0 && namesake < index) {
      reader.problem(`${variable}: entries ${namesake + 1} and ${index + 1} have the same name.`);
    }
  });
  return tokens.filter((token) => token !== null);
}

function readEntry(
  reader: SettingsReader,
  role: Role,
  text: string,
  { place, isProduction }: { place: number; isProduction: boolean },
): Token | null {
  const { variable } = settingByRole[role];
  const entry = parseEntry(text, role);
  if (entry === null) reader.problem(`${variable}: entry ${place} is not ${expectedForm(role)}.`);
  else if (isProduction && entry.weakness !== null) {
    reader.problem(`${variable}: the token of entry ${place} ${entry.weakness}.`);
  }
  return entry?.token ?? null;
}

function expectedForm(role: Role): string {
  const tenants = settingByRole[role].mayNameTenants ? ', with @tenant|tenant after the name where it is limited to tenants' : '';
  return `name:token or name:sha256:<64 hex characters>${tenants}; %-encode : , @ | within them`;
}

/** Null if the entry is malformed. `: , @ |` inside a name, tenant or token are %-encoded. */
function parseEntry(text: string, role: Role): ParsedEntry | null {
  const separator = text.indexOf(':');
  if (separator < 1) return null;
  const owner = parseOwner(text.slice(0, separator), settingByRole[role].mayNameTenants);
  const secret = parseSecret(text.slice(separator + 1));
  if (owner === null || secret === null) return null;
  return { token: { ...owner, role, digest: secret.digest }, weakness: secret.weakness };
}

/** The part before the first colon: a name, and optionally `@` and the tenants. */
function parseOwner(text: string, mayNameTenants: boolean): Pick<Token, 'name' | 'tenants'> | null {
  const [encodedName = '', encodedTenants, ...rest] = text.split('@');
  const name = percentDecoded(encodedName);
  if (name === null || name === '' || rest.length > 0) return null;
  if (encodedTenants === undefined) return { name, tenants: null };
  if (!mayNameTenants) return null;
  const tenants = new Set(encodedTenants.split('|').map((tenant) => percentDecoded(tenant) ?? ''));
  return [...tenants].every(isLabel) ? { name, tenants } : null;
}

function parseSecret(text: string): { digest: Buffer; weakness: string | null } | null {
  if (text.startsWith(sha256Prefix)) {
    const hex = text.slice(sha256Prefix.length);
    return sha256Hex.test(hex) ? { digest: Buffer.from(hex, 'hex'), weakness: null } : null;
  }
  const token = percentDecoded(text);
  // A token is sent in a header. One with a colon may be a digest with a mistyped prefix.
  if (token === null || text.includes(':') || !/^[\x21-\x7e]+$/.test(token)) return null;
  return { digest: digestOf(token), weakness: tokenWeakness(token) };
}

/**
 * What shows that a token was typed rather than drawn at random, as the end of a sentence that never contains the token; or null.
 */
function tokenWeakness(token: string): string | null {
  if (token.length < minCharacters) return `is shorter than ${minCharacters} characters`;
  if (new Set(token).size < minDifferentCharacters) return `has fewer than ${minDifferentCharacters} different characters`;
  const rest = token.replaceAll(defaultWords, '');
  return rest !== token && !/[a-z]/i.test(rest) ? 'looks like a default: draw one at random' : null;
}
