/** `/admin/rotate`: lets operators try, run and watch a rotation. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { AuditJournal } from '../../audit/journal.ts';
import { presentDryRun, presentRotation } from '../../contract/presenters.ts';
import * as schemas from '../../contract/schemas.ts';
import { cancelRotation, findRotation } from '../../rotation/control.ts';
import type { DryRun, Rotator } from '../../rotation/engine.ts';
import type { RotationRequest } from '../../rotation/plan.ts';
import { withTimeout } from '../../runtime/with-timeout.ts';
import type { RotationRecord } from '../../store/rotation-record.ts';
import type { RotationStore } from '../../store/rotations.ts';
import { actorOf } from '../auth.ts';
import { goneSignal } from '../gone.ts';

const tags = ['Rotation'];

export interface RotateRoutesOptions {
  readonly rotator: Rotator;
  readonly rotations: RotationStore;
  readonly journal: AuditJournal;
  readonly encryptedTables: readonly string[];
}

export function rotateRoutes({ rotator, rotations, journal, encryptedTables }: RotateRoutesOptions): FastifyPluginAsyncTypebox {
  const present = (rotation: RotationRecord): schemas.RotationAnswer => {
    const progress = rotator.running?.id === rotation.id ? rotator.running.progress() : null;
    return presentRotation(rotation, encryptedTables, progress);
  };
  const find = (id: string): Promise<RotationRecord> => findRotation(rotations, id);

  return async (app) => {
    app.post('/rotate/dry-run', {
      schema: {
        operationId: 'dryRunRotation',
        summary: 'Open every row with the old key or the new one, and change nothing',
        tags,
        body: schemas.DryRunBody,
        response: { 200: schemas.DryRunAnswer, ...schemas.errorAnswers },
      },
      handler: async (request, reply) => {
        const signal = goneSignal(reply);
        const run = (): Promise<DryRun> => rotator.dryRun(toRequest(request.body), { signal });
        const toDetails = ({ fromKeyId, toKeyId, rowsScanned }: DryRun) => ({
          from_key_id: fromKeyId,
          to_key_id: toKeyId,
          rows_scanned: rowsScanned,
        });
        return presentDryRun(await journal.acted(actorOf(request), 'rotation.dry_run', run, toDetails));
      },
    });

    app.post('/rotate/execute', {
      schema: {
        operationId: 'executeRotation',
        summary: 'Rotate the master key, or finish a rotation that was interrupted',
        tags,
        querystring: schemas.ExecuteQuery,
        body: schemas.ExecuteBody,
        response: { 200: schemas.RotationEnvelope, 202: schemas.RotationEnvelope, ...schemas.errorAnswers },
      },
      handler: async (request, reply) => {
        const { body, query } = request;
        const running = await rotator.start({ ...toRequest(body), actor: actorOf(request) });
        const finished = await withTimeout(running.done, (query.wait ?? 25) * 1000, () => null);
        if (finished !== null) return { rotation: present(finished) };
        reply.code(202).header('Location', `/admin/rotate/${running.id}`);
        return { rotation: present(await find(running.id)) };
      },
    });

    app.post('/rotate/:id/cancel', {
      schema: {
        operationId: 'cancelRotation',
        summary: 'Stop a rotation that has not switched the active key yet',
        tags,
        params: schemas.IdParams,
        body: schemas.EmptyBody,
        response: { 200: schemas.RotationEnvelope, ...schemas.errorAnswers },
      },
      handler: async (request) => {
        const cancelled = await cancelRotation({ rotations, journal }, actorOf(request), request.params.id);
        return { rotation: present(cancelled) };
      },
    });

    app.get('/rotate', {
      schema: {
        operationId: 'listRotations',
        summary: 'The rotation that is unfinished, and the last one that ended',
        tags,
        response: { 200: schemas.RotationsAnswer, ...schemas.errorAnswers },
      },
      handler: async () => {
        const [unfinished, last] = [await rotations.findUnfinished(), await rotations.findLastFinished()];
        return { running: unfinished && present(unfinished), last: last && present(last) };
      },
    });

    app.get('/rotate/:id', {
      schema: {
        operationId: 'getRotation',
        summary: 'One rotation, with its progress',
        tags,
        params: schemas.IdParams,
        response: { 200: schemas.RotationEnvelope, ...schemas.errorAnswers },
      },
      handler: async ({ params }) => ({ rotation: present(await find(params.id)) }),
    });
  };
}

function toRequest(body: schemas.ExecuteBody): RotationRequest {
  return { oldKeyId: body.old_key_id, newKeyId: body.new_key_id, skipIds: body.skip_ids, upgradeFormat: body.upgrade_format };
}
