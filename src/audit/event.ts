/** The content of an audit record apart from its place in the chain: who did what to what, and the outcome; never a value. */

import { randomUUID } from 'node:crypto';

/** Who acts: a token by its name and role, the command line, or the vault itself. */
export interface Actor {
  readonly name: string;
  readonly role: string;
  /** Null if there was no request. */
  readonly requestId: string | null;
}

/** The vault itself, for what it does at startup and at intervals. */
export const vaultActor: Actor = { name: 'vault', role: 'vault', requestId: null };

export function cliActor(): Actor {
  return { name: 'cli', role: 'cli', requestId: randomUUID() };
}

export interface AuditEvent {
  /** Such as `key.decrypt`; docs/audit.md lists all of them. */
  readonly act: string;
  /** `done`, or the code of the error that the act ended with. */
  readonly outcome: string;
  /** The row concerned. */
  readonly row?: { readonly tenantId: string | null; readonly name: string | null; readonly id: string | null };
  /** Ids and counts. */
  readonly details?: Readonly<Record<string, unknown>>;
  /** Records of the other sink, or of other chains, that this one vouches for. */
  readonly heads?: readonly ChainHead[];
}

/** The last record of a chain, as another chain vouches for it. */
export interface ChainHead {
  readonly sink: 'log' | 'database';
  readonly chain: string;
  readonly seq: number;
  readonly mac: string;
}

/** The fields in the order in which they are written. */
export function toFields({ name, role, requestId }: Actor, event: AuditEvent): Record<string, unknown> {
  const { act, outcome, row, details, heads } = event;
  const fields: Record<string, unknown> = { actor: name, role, request_id: requestId, act, outcome };
  if (row !== undefined) Object.assign(fields, { tenant_id: row.tenantId, name: row.name, id: row.id });
  if (details !== undefined) fields['details'] = details;
  if (heads !== undefined) fields['heads'] = heads;
  return fields;
}
