import { describe, expect, test } from '@jest/globals';
import type { Hook, HookStep } from '../../agent/src/hooks/hook.js';
import { holdAndMark } from '../../agent/src/hooks/hold.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { hookStep } from './step.js';

interface System {
  readonly database?: string;
  readonly hosts?: number;
  readonly inactive?: string;
  readonly paths?: readonly string[];
  /** Prepared already: id and comment. */
  readonly snapshot?: string;
  readonly restartedAt?: string;
  readonly first?: readonly DialogueLine[];
  readonly start?: string;
}
const startedAt = '2026-11-23T09:00:00';
const paths = ['DATA|/hana/data/HDB/', 'LOG|/hana/log/HDB/'];
const refused = (code: number, text: string): Partial<DialogueLine> => ({
  ...{ errors: `* ${code}: ${text} SQLSTATE: HY000\n`, exitCode: 3 },
});

/** A system whose snapshot has to be looked for, made, and closed in this order; `prepared` is the one of state `open`. */
function system(o: System = {}): Dialogue {
  const hdbsql = String.raw`sh hdbadm runuser -u hdbadm -- /usr/sap/HDB/HDB00/exe/hdbsql -U TIDEMARK -a -x -j `;
  const row = (text: string): string => `"tm-${text}"\n`;
  const database = (at = startedAt): string => row(`database|${o.database ?? 'SYSTEMDB'}|${at}`);
  const open = row('snapshot|1763888400123|tidemark');
  const state = new RegExp(`${hdbsql}SELECT 'tm-database[^]*'prepared'$`);
  const close = (how: string): RegExp =>
    new RegExp(`${hdbsql}BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID 1763888400123 ${how}$`);
  const lines: DialogueLine[] = [
    ...(o.first ?? []),
    {
      in: ['up', 'left'],
      on: new RegExp(`${hdbsql}SELECT 'tm-database[^]*M_DISKS`),
      answer: () =>
        [
          `${database()}${row(`hosts|${o.hosts ?? 1}`)}`,
          ...(dialogue.state === 'left' ? [open] : []),
          ...(o.snapshot === undefined ? [] : [row(`snapshot|${o.snapshot}`)]),
          ...(o.inactive === undefined ? [] : [row(`inactive|${o.inactive}`)]),
          ...(o.paths ?? paths).map((path) => row(`path|${path}`)),
        ].join(''),
    },
    { in: ['left'], on: close(`UNSUCCESSFUL 'tidemark: (left behind|recovered)'`), next: 'up' },
    {
      in: ['up'],
      on: new RegExp(`${hdbsql}BACKUP DATA FOR FULL SYSTEM CREATE SNAPSHOT COMMENT 'tidemark'$`),
      next: 'open',
    },
    { in: ['open', 'left'], on: state, answer: () => `${database(o.restartedAt)}${open}` },
    { in: ['up', 'closed'], on: state, answer: () => database(o.restartedAt) },
    { in: ['open'], on: close(`SUCCESSFUL 'tidemark: application checkpoint'`), next: 'closed' },
    { in: ['open'], on: close(`UNSUCCESSFUL 'tidemark: no application checkpoint'`), next: 'closed' },
  ];
  const dialogue = new Dialogue({ start: o.start ?? 'up', lines, outOfOrder: '* 257: sql syntax error' });
  return dialogue;
}

const hook = (more: object = {}): Hook =>
  createHook(hookSettingsSchema.parse({ kind: 'sap-hana', sid: 'HDB', ...more }) as never);

async function held(dialogue: Dialogue): Promise<{ readonly hook: Hook; readonly step: HookStep }> {
  const [hana, step] = [hook(), hookStep(dialogue)];
  expect(await hana.prepare(step)).toEqual({ findings: [] });
  await hana.quiesce(step);
  return { hook: hana, step };
}

describe('sap-hana', () => {
  test('a snapshot is prepared before the hold, stays over it, and is closed when it is proven', async () => {
    const dialogue = system();
    const { hook: hana, step } = await held(dialogue);
    await hana.release(step);
    expect(dialogue.state).toBe('open');
    expect(await hana.verify(step)).toEqual({
      findings: [],
      verifiedBy: [`data snapshot 1763888400123 prepared from before the hold to its end, started ${startedAt}`],
      facts: { hanaBackupId: '1763888400123' },
    });
    await hana.abandon!(step);
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'closed' });
  });

  test('a point that is only crash is closed as no backup, also when the hold never came', async () => {
    for (const isQuiet of [true, false]) {
      const dialogue = system();
      const [hana, step] = [hook(), hookStep(dialogue)];
      await hana.prepare(step);
      if (isQuiet) await hana.quiesce(step);
      await hana.abandon!(step);
      await hana.abandon!(step);
      expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'closed' });
    }
    const never = system({ hosts: 2 });
    const untouched = hook();
    await untouched.prepare(hookStep(never));
    await untouched.abandon!(hookStep(never));
    expect(never.said).toHaveLength(1);
  });

  test('closed UNSUCCESSFUL where it is not to be a backup', async () => {
    const close = { in: ['open'], on: /UNSUCCESSFUL 'tidemark: application checkpoint'$/, next: 'closed' };
    const dialogue = system({ first: [close] });
    const [hana, step] = [hook({ isBackup: false }), hookStep(dialogue)];
    await hana.prepare(step);
    await hana.quiesce(step);
    expect((await hana.verify(step)).findings).toEqual([]);
    expect(dialogue.state).toBe('closed');
  });

  test.each([
    ['not-system-database', { database: 'ERP' }],
    ['several-hosts', { hosts: 3 }],
    ['service-inactive', { inactive: 'ERP indexserver|NO' }],
    ['snapshot-by-others', { snapshot: '42|nightly' }],
    ['data-unprotected', { paths: paths.slice(0, 1) }],
  ])('%s is a finding, and no snapshot is made', async (code, facts) => {
    const dialogue = system(facts);
    expect(await hook().prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.said).toHaveLength(1);
  });

  test.each(['/hana/data/HDB/', '/hana/log/HDB/'])('%s that is not captured is a finding', async (path) => {
    const step = hookStep(system(), { unprotectedPaths: [path] });
    expect(await hook().prepare(step)).toMatchObject({ findings: [{ code: 'data-unprotected' }] });
  });

  test.each([
    [447, 'backup could not be completed: [110090] snapshot could not be created', /CREATE SNAPSHOT/],
    [258, 'insufficient privilege: Not authorized', /M_DISKS/],
    [-10104, 'Invalid value for KEY (TIDEMARK)', /M_DISKS/],
  ])('error %d of prepare is told in its own words, and what may be open is looked for', async (code, text, on) => {
    const dialogue = system({ first: [{ in: ['up'], on, ...refused(code, text) }] });
    const [hana, step] = [hook(), hookStep(dialogue)];
    await expect(hana.prepare(step)).rejects.toThrow(`SAP HANA in db says: * ${code}: ${text}`);
    await hana.abandon!(step);
    expect(dialogue.violations).toEqual([]);
  });

  test('a creation that is not answered in time: what it made all the same is closed', async () => {
    const dialogue = system({ first: [{ in: ['up'], on: /CREATE SNAPSHOT/, hangs: true, next: 'open' }] });
    const [hana, step] = [hook(), hookStep(dialogue)];
    await expect(hana.prepare(step)).rejects.toMatchObject({ code: 'timed-out' });
    await hana.abandon!(step);
    expect(dialogue.state).toBe('closed');
  });

  test('answers that it does not know are errors', async () => {
    const dialogue = system({ first: [{ on: /M_DISKS/, answer: '"tm-database|SYSTEMDB"\n' }] });
    await expect(hook().prepare(hookStep(dialogue))).rejects.toMatchObject({ code: 'hook-failed' });
  });

  test('a snapshot that somebody closed fails the quiesce, or is no proof; so is a restart, and a close that is refused', async () => {
    const early = system();
    const [hana, step] = [hook(), hookStep(early)];
    await hana.prepare(step);
    early.state = 'closed';
    await expect(hana.quiesce(step)).rejects.toThrow('not prepared any more');
    const late = system();
    const lost = await held(late);
    late.state = 'closed';
    expect((await lost.hook.verify(lost.step)).findings).toMatchObject([{ code: 'snapshot-lost' }]);
    const anew = system();
    const restarted = await held(anew);
    const at = '"tm-database|SYSTEMDB|2026-11-23T09:30:00"\n';
    const other = system({ start: 'closed', first: [{ on: /tm-database/, answer: at }] });
    expect((await restarted.hook.verify(hookStep(other))).findings).toMatchObject([{ code: 'restarted' }]);
    const refusal = refused(447, 'backup could not be completed: a service was restarted');
    const closing = await held(system({ first: [{ in: ['open'], on: / SUCCESSFUL /, ...refusal }] }));
    await expect(closing.hook.verify(closing.step)).rejects.toThrow('a service was restarted');
    await closing.hook.abandon!(closing.step);
  });

  test('undo, the next prepare and a recovered VM close what is ours, and nothing else', async () => {
    const left = system({ start: 'left' });
    expect(await hook().undo(hookStep(left))).toEqual(['closed the data snapshot 1763888400123 of SAP HANA']);
    expect(left.state).toBe('up');
    const next = system({ start: 'left' });
    expect(await hook().prepare(hookStep(next))).toEqual({ findings: [] });
    expect({ violations: next.violations, state: next.state }).toEqual({ violations: [], state: 'open' });
    const recovered = system({ start: 'left' });
    await hook().afterRecovery(hookStep(recovered));
    expect(recovered.state).toBe('up');
    const others = system({
      first: [{ on: /tm-database/, answer: `"tm-database|SYSTEMDB|${startedAt}"\n"tm-snapshot|7|theirs"\n` }],
    });
    expect(await hook().undo(hookStep(others))).toEqual([]);
    expect(others.said).toHaveLength(1);
  });

  test('a system that does not run has nothing to undo; a recovered VM waits for it', async () => {
    const down = [{ on: /hdbsql/, ...refused(-10709, 'Connection failed (RTE:[89006] Connection refused)') }];
    expect(await hook().undo(hookStep(system({ first: down })))).toEqual([]);
    await expect(hook().afterRecovery(hookStep(system({ first: down })))).rejects.toThrow('-10709');
    const denied = [{ on: /hdbsql/, ...refused(10, 'authentication failed') }];
    await expect(hook().undo(hookStep(system({ first: denied })))).rejects.toThrow('authentication failed');
  });

  test('in a hold that another hook fails, its snapshot is closed as no backup', async () => {
    const guest = system({ first: [{ on: / psql /, errors: 'psql: error: connection refused\n', exitCode: 2 }] });
    const settings = [{ kind: 'sap-hana', sid: 'HDB' }, { kind: 'postgresql' }].map((each) =>
      hookSettingsSchema.parse(each),
    );
    const { reasons } = await holdAndMark({
      guests: [{ ...hookStep(guest), vm: 'erp', tier: 1, settings, close: () => undefined }],
      ...{ id: 'a1', clock: nodeClock, holdMsMax: 2000, signal: new AbortController().signal },
      ...{ mark: () => 1, capturedBytes: () => 0 },
    });
    expect(reasons).toMatchObject([{ vm: 'erp', step: 'prepare', code: 'hook-failed' }]);
    expect({ violations: guest.violations, state: guest.state }).toEqual({ violations: [], state: 'closed' });
  });
});
