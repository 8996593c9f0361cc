/** `/admin/audit`: the audit records in the database, oldest first. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { presentAuditRow } from '../../contract/presenters.ts';
import * as schemas from '../../contract/schemas.ts';
import type { AuditStore } from '../../store/audit.ts';
import { decodeCursor, encodeCursor } from '../cursor.ts';

export function auditRoutes({ auditStore }: { readonly auditStore: AuditStore }): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/audit', {
      schema: {
        operationId: 'listAudit',
        summary: 'Admin acts and writes on record, the newest last',
        tags: ['Audit'],
        querystring: schemas.AuditQuery,
        response: { 200: schemas.AuditAnswer, ...schemas.errorAnswers },
      },
      handler: async ({ query }) => {
        const limit = query.limit ?? 100;
        const found = await auditStore.list(query.after === undefined ? 0 : toPosition(query.after), limit + 1);
        const records = found.slice(0, limit).map((row) => presentAuditRow(row, encodeCursor(String(row.position))));
        return { records, next_cursor: found.length > limit ? (records.at(-1)?.cursor ?? null) : null };
      },
    });
  };
}

/** Throws ValidationError. */
function toPosition(cursor: string): number {
  return Number(decodeCursor(cursor, /^[0-9]{1,15}$/, 'after'));
}
