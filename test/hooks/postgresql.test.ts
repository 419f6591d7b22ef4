import { describe, expect, test } from '@jest/globals';
import type { Hook } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { hookStep } from './step.js';

const sound = {
  fsync: 'on',
  fullPageWrites: 'on',
  standby: false,
  earlyCommits: [] as string[],
  paths: ['/var/lib/postgresql/15/main', '/var/lib/postgresql/15/main/pg_wal'],
};
const startedAt = '2026-11-23T10:00:00+00:00';

interface Server {
  readonly settings?: Partial<typeof sound>;
  /** After each CHECKPOINT. */
  readonly redoBytes?: readonly number[];
  readonly flushed?: string;
  readonly startedAfter?: string;
}

/** A server that has to be looked at, checkpointed and quiesced in this order. */
function server({
  settings = {},
  redoBytes = [900],
  flushed = '0/3000060',
  startedAfter = startedAt,
}: Server): Dialogue {
  let at = 0;
  const redo = (): string => `{"redoBytes": ${redoBytes[Math.min(at++, redoBytes.length - 1)]}}\n`;
  const state = (start: string): string => `"flushed": "${flushed}", "startedAt": "${start}"`;
  const lines: DialogueLine[] = [
    {
      in: ['up'],
      on: /current_setting\('fsync'\)/,
      answer: `${JSON.stringify({ ...sound, ...settings })}\n`,
      next: 'seen',
    },
    { in: ['seen'], on: /CHECKPOINT;\nSELECT/, answer: redo, next: 'seen' },
    {
      in: ['seen'],
      on: /SET synchronous_commit = local;\nSELECT to_json\(pg_logical_emit_message\(true,/,
      answer: `"0/3000028"\n{${state(startedAt)}, "redoBytes": 120}\n`,
      next: 'quiet',
    },
    { in: ['quiet'], on: /pg_postmaster_start_time/, answer: `{${state(startedAfter)}}\n` },
  ];
  return new Dialogue({ start: 'up', lines, outOfOrder: 'psql: error: server closed the connection' });
}

const hook = (redoBytesMax = 1000): Hook => createHook(hookSettingsSchema.parse({ kind: 'postgresql', redoBytesMax }));

describe('postgresql', () => {
  test('checkpoints until little would be replayed, commits, and proves what was flushed', async () => {
    const [dialogue, postgresql] = [server({ redoBytes: [50_000, 2000, 400] }), hook()];
    const step = hookStep(dialogue);
    expect(await postgresql.prepare(step)).toEqual({ findings: [] });
    expect(dialogue.said.filter(({ text }) => text.includes('CHECKPOINT'))).toHaveLength(3);
    await postgresql.quiesce(step);
    await postgresql.release(step);
    expect(await postgresql.verify(step)).toEqual({
      findings: [],
      verifiedBy: ['flushed LSN 0/3000060 >= 0/3000028'],
      facts: { flushedLsn: '0/3000060', redoBytes: 120 },
    });
    expect(dialogue.violations).toEqual([]);
  });

  test.each([
    ['fsync-off', { fsync: 'off' }],
    ['full-page-writes-off', { fullPageWrites: 'off' }],
    ['standby', { standby: true }],
    ['synchronous-commit-off', { earlyCommits: ['app in shop'] }],
  ])('%s is a finding, and nothing is asked of it any more', async (code, settings) => {
    const dialogue = server({ settings });
    expect(await hook().prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.said).toHaveLength(1);
  });

  test('data on a disk that is not captured is a finding', async () => {
    const step = hookStep(server({}), { unprotectedPaths: [sound.paths[1]!] });
    expect(await hook().prepare(step)).toMatchObject({ findings: [{ code: 'data-unprotected' }] });
  });

  test('what was not flushed, a server that was restarted, and one that does not answer are no proof', async () => {
    const behind = hook();
    const step = hookStep(server({ flushed: '0/3000000' }));
    await behind.prepare(step);
    await expect(behind.quiesce(step)).rejects.toThrow('flushed up to 0/3000000, not to 0/3000028');

    const restarted = hook();
    const other = hookStep(server({ startedAfter: '2026-11-23T10:30:00+00:00' }));
    await restarted.prepare(other);
    await restarted.quiesce(other);
    expect((await restarted.verify(other)).findings).toMatchObject([{ code: 'restarted' }]);

    await expect(hook().quiesce(hookStep(server({})))).rejects.toThrow('server closed the connection');
  });
});
