import { describe, expect, test } from '@jest/globals';
import type { JournalMark } from '../../agent/src/journal/types.js';
import type { Session } from '../../agent/src/link/session.js';
import { Verdicts } from '../../agent/src/link/verdicts.js';
import type { Verdict } from '../../agent/src/stream/messages.js';
import { listCheckpoints } from '../../agent/src/target/checkpoints.js';
import { coordinatorStream, type ManifestRecord } from '../../agent/src/target/manifest-records.js';
import { applyRecord, emptyState, type ManifestState } from '../../agent/src/target/manifest.js';

const mark = (id: string, more: Partial<JournalMark['mark']> = {}): JournalMark => ({
  mark: { id, kind: 'application', sourceTimeMs: 1000, disksMissing: [], provisional: true, ...more },
  ...{ stream: 0, incarnation: 1, epoch: 1, sequence: 7 },
});
const verdict = (checkpoint: string, proven: boolean, stream = 0): ManifestRecord => ({
  ...{ type: 'verdict', checkpoint, stream, proven },
  attributes: { proven, vms: [] },
});
function state(...records: ManifestRecord[]): ManifestState {
  const made = emptyState();
  for (const record of records) applyRecord(made, record);
  return made;
}

describe('a provisional mark', () => {
  test('is a crash checkpoint until its hold is proven', () => {
    expect(listCheckpoints([mark('a')], state())).toMatchObject([
      {
        id: 'a',
        kind: 'crash',
        provisional: true,
        attributes: { application: { reasons: [{ code: 'proof-missing' }] } },
      },
    ]);
    const [proven] = listCheckpoints([mark('a', { label: 'x' })], state(verdict('a', true)));
    expect(proven).toMatchObject({ kind: 'application', label: 'x', attributes: { application: { proven: true } } });
    expect(proven?.provisional).toBeUndefined();
  });

  test('stays one when the hold was broken, when another stream speaks, and the first word counts', () => {
    const kinds = (...records: ManifestRecord[]): string[] =>
      listCheckpoints([mark('a')], state(...records)).map(({ kind }) => kind);
    expect(kinds(verdict('a', false))).toEqual(['crash']);
    expect(kinds(verdict('b', true))).toEqual(['crash']);
    expect(kinds(verdict('a', true, 1))).toEqual(['crash']);
    expect(kinds(verdict('a', false), verdict('a', true))).toEqual(['crash']);
  });

  test('over several streams is judged by the target alone', () => {
    const both = [mark('a', { barrier: 'b1' }), { ...mark('a', { barrier: 'b1' }), stream: 1 }];
    const vector = { 0: { incarnation: 1, sequence: 7 }, 1: { incarnation: 1, sequence: 7 } };
    const barrier: ManifestRecord = { type: 'barrier', checkpoint: 'a', barrier: 'b1', vector };
    const kinds = (...records: ManifestRecord[]): string[] =>
      listCheckpoints(both, state(barrier, ...records)).map(({ kind }) => kind);
    expect(kinds()).toEqual(['crash']);
    expect(kinds(verdict('a', true))).toEqual(['crash']);
    expect(kinds(verdict('a', true, coordinatorStream))).toEqual(['application']);
    expect(kinds(verdict('a', false, coordinatorStream))).toEqual(['crash']);
    const alone = listCheckpoints([mark('a')], state(verdict('a', true, coordinatorStream)));
    expect(alone.map(({ kind }) => kind)).toEqual(['crash']);
  });

  test('is judged also after it was promoted', () => {
    const [checkpoint] = listCheckpoints([mark('a')], state());
    const promoted: ManifestRecord = { type: 'promoted', through: checkpoint!.vector, checkpoint: checkpoint! };
    expect(listCheckpoints([], state(promoted))).toMatchObject([{ kind: 'crash' }]);
    expect(listCheckpoints([], state(promoted, verdict('a', true)))).toMatchObject([{ kind: 'application' }]);
  });
});

describe('verdicts on their way', () => {
  const session = (sent: string[]): Session =>
    ({ sendVerdict: ({ checkpoint }: Verdict) => sent.push(checkpoint) }) as unknown as Session;

  test('are sent again with every connection until they are kept', async () => {
    const verdicts = new Verdicts();
    const [first, second]: [string[], string[]] = [[], []];
    const kept = verdicts.give({ checkpoint: 'a', proven: true, attributes: {} });
    verdicts.connected(session(first));
    verdicts.disconnected();
    void verdicts.give({ checkpoint: 'b', proven: false, attributes: {} });
    verdicts.connected(session(second));
    expect([first, second]).toEqual([['a'], ['a', 'b']]);
    verdicts.kept('a');
    await kept;
    const third: string[] = [];
    verdicts.connected(session(third));
    expect(third).toEqual(['b']);
  });

  test('too many of them are given up, oldest first', async () => {
    const verdicts = new Verdicts();
    const first = verdicts.give({ checkpoint: 'first', proven: true, attributes: {} });
    for (let count = 0; count < 1000; count++)
      void verdicts.give({ checkpoint: `${count}`, proven: true, attributes: {} });
    await expect(first).rejects.toThrow('given up');
  });
});
