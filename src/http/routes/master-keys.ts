/** `/admin/verify` and `/admin/master-keys`: which key opens which rows, determined by opening them. */

import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { Actor } from '../../audit/event.ts';
import { presentMasterKey, presentSurvey } from '../../contract/presenters.ts';
import * as schemas from '../../contract/schemas.ts';
import type { MasterKeyReport } from '../../keys/report.ts';
import type { Survey } from '../../keys/survey.ts';
import type { ReplicaStore } from '../../store/replicas.ts';
import { actorOf } from '../auth.ts';

const tags = ['Master keys'];

export interface MasterKeyRoutesOptions {
  readonly verify: (actor: Actor) => Promise<Survey>;
  readonly replicas: ReplicaStore;
  readonly reportMasterKeys: () => Promise<{ activeKeyId: string | null; keys: MasterKeyReport[] }>;
}

export function masterKeyRoutes({ verify, reportMasterKeys, replicas }: MasterKeyRoutesOptions): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.post('/verify', {
      schema: {
        operationId: 'verifyRows',
        summary: 'Open every row and say which key opens how many',
        tags,
        body: schemas.EmptyBody,
        response: { 200: schemas.VerifyAnswer, ...schemas.errorAnswers },
      },
      handler: async (request) => presentSurvey(await verify(actorOf(request))),
    });

    app.get('/master-keys', {
      schema: {
        operationId: 'listMasterKeys',
        summary: 'Every master key that the database knows: its state, its rows, and whether it may be retired',
        tags,
        response: { 200: schemas.MasterKeysAnswer, ...schemas.errorAnswers },
      },
      handler: async () => {
        const { activeKeyId, keys } = await reportMasterKeys();
        const live = (await replicas.live()).map(({ id, host, keyIds }) => ({ id, host, key_ids: [...keyIds] }));
        return { active_key_id: activeKeyId, keys: keys.map(presentMasterKey), replicas: live };
      },
    });
  };
}
