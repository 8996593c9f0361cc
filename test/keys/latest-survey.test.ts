/** Answers share a survey and wait for it a moment only; the next begins when it is due, or after a change that the last may not have seen. */

import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { LatestSurvey } from '../../src/keys/latest-survey.ts';
import type { Survey } from '../../src/keys/survey.ts';

function surveyOf(rowsScanned: number): Survey {
  return { rowsScanned, rowsByKeyId: new Map(), rowsFailed: 0, rowsOfFormat1: 0, failures: [] };
}

/** Each survey ends when the test says so. */
function start() {
  const underWay: { end: (survey: Survey) => void; fail: (error: Error) => void }[] = [];
  const survey = () => new Promise<Survey>((end, fail) => underWay.push({ end, fail }));
  const latest = new LatestSurvey({ survey, close: async () => undefined });
  return { latest, underWay };
}

describe('the latest survey', () => {
  it('is null before the first has ended, and afterwards answers without another', async () => {
    const { latest, underWay } = start();
    expect(await latest.get(0)).toBeNull();
    expect(await latest.get(1)).toBeNull();
    const waiting = [latest.get(60_000), latest.get(60_000)];
    underWay[0]?.end(surveyOf(1));
    expect(await Promise.all(waiting)).toEqual([surveyOf(1), surveyOf(1)]);
    expect(await latest.get()).toEqual(surveyOf(1));
    expect(underWay.length).toBe(1);
  });

  it('fails for those who wait for it, and for nobody else', async () => {
    const { latest, underWay } = start();
    const waiting = latest.get(60_000);
    underWay[0]?.fail(new Error('sample'));
    await expect(waiting).rejects.toThrow('sample');
    expect(await latest.get()).toBeNull();
    expect(underWay.length).toBe(1);
  });

  it('is repeated after a change that came while it was under way, and is answered until the next has ended', async () => {
    const { latest, underWay } = start();
    const first = latest.get(60_000);
    await sleep(2);
    latest.outdate();
    underWay[0]?.end(surveyOf(1));
    expect(await first).toEqual(surveyOf(1));
    expect(await latest.get(1)).toEqual(surveyOf(1));
    const second = latest.get(60_000);
    underWay[1]?.end(surveyOf(2));
    expect(await second).toEqual(surveyOf(2));
    expect(await latest.get()).toEqual(surveyOf(2));
    expect(underWay.length).toBe(2);
  });
});
