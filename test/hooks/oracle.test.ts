import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { Hook, HookStep } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { hookStep } from './step.js';

const startedAt = '2026-11-23T09:00:00';
const files = [
  '/u01/oradata/ERP/system01.dbf',
  '/u01/oradata/ERP/control01.ctl',
  '/u02/redo/redo01.log',
  '/u03/arch',
  '/u01/app/dbs/spfileERP.ora',
];
interface Database {
  readonly logMode?: string;
  readonly openMode?: string;
  readonly role?: string;
  readonly parallel?: string;
  /** Files in backup mode before anything begins. */
  readonly active?: number;
  readonly files?: readonly string[];
  /** Disk group and path. */
  readonly disks?: readonly (readonly [string, string])[];
  readonly nowait?: string;
  /** At verify. */
  readonly restartedAt?: string;
  readonly first?: readonly DialogueLine[];
  readonly start?: string;
}

const instance = (at: string, status: string, parallel: string): string => `tm-instance|${at}|${status}|${parallel}\n`;
const backup = (count: number): string => `tm-backup|${count}|${count > 0 ? 4711 : 0}\n`;

/**
 * A database that has to be looked at, checkpointed, marked, put in backup mode and out of it in this order. States: `up`,
 * `seen`, `ready`, `marked`, `hot`, `ended`, `done`; `crashed` is mounted and cannot be opened for its backup mode.
 */
function database(o: Database = {}): Dialogue {
  const { logMode = 'ARCHIVELOG', openMode = 'READ WRITE', role = 'PRIMARY', parallel = 'NO', active = 0 } = o;
  const scn = (number: number): string => `tm-database|${logMode}|${openMode}|${role}|${number}|4700\n`;
  const state = (count: number, at = startedAt): string => `${instance(at, 'OPEN', parallel)}${backup(count)}`;
  const sqlplus = String.raw`runuser -u oracle -- /u01/app/bin/sqlplus -S -L /nolog\n[^]*CONNECT / AS SYSDBA\n`;
  const lines: DialogueLine[] = [
    ...(o.first ?? []),
    { in: ['marked', 'left', 'crashed'], on: / sh look \/var\/lib\/tidemark\/oracle-ERP$/, answer: 'marked\n' },
    { on: / sh look / },
    {
      in: ['up'],
      on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*v\\$datafile[^]*v\\$asm_disk`),
      answer: [
        `${state(active)}${scn(4700)}`,
        ...(o.nowait === undefined ? [] : [`tm-nowait|${o.nowait}\n`]),
        ...(o.files ?? files).map((file) => `tm-file|${file}\n`),
        ...(o.disks ?? []).map(([group, path]) => `tm-disk|${group}|${path}\n`),
      ].join(''),
      next: 'seen',
    },
    {
      in: ['seen'],
      on: new RegExp(
        `${sqlplus}${logMode === 'ARCHIVELOG' ? 'ALTER SYSTEM ARCHIVE LOG CURRENT;\n' : ''}ALTER SYSTEM CHECKPOINT;\nEXIT`,
      ),
      next: 'ready',
    },
    { in: ['ready'], on: / sh make /, next: 'marked' },
    {
      in: ['marked'],
      on: new RegExp(`${sqlplus}ALTER DATABASE BEGIN BACKUP;\nSELECT`),
      ...{ answer: `${state(5)}${scn(4712)}`, next: 'hot' },
    },
    { in: ['hot', 'left'], on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*'ACTIVE';\nEXIT`), answer: state(5) },
    { in: ['marked', 'ended'], on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*'ACTIVE';\nEXIT`), answer: state(0) },
    {
      in: ['crashed'],
      on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*'ACTIVE';\nEXIT`),
      answer: `${instance(startedAt, 'MOUNTED', parallel)}${backup(5)}`,
    },
    { in: ['hot', 'left'], on: new RegExp(`${sqlplus}ALTER DATABASE END BACKUP;\nEXIT`), next: 'ended' },
    {
      in: ['crashed'],
      on: new RegExp(`${sqlplus}ALTER DATABASE END BACKUP;\nALTER DATABASE OPEN;\nEXIT`),
      next: 'ended',
    },
    { in: ['ended', 'marked'], on: / sh drop /, next: 'done' },
    {
      in: ['done'],
      on: new RegExp(`${sqlplus}ALTER SYSTEM ARCHIVE LOG CURRENT;\nSELECT`),
      answer: `${state(0, o.restartedAt)}${scn(4720)}`,
    },
    // Without backup mode.
    {
      in: ['ready'],
      on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*v\\$database;\nEXIT`),
      ...{ answer: `${state(0)}${scn(4712)}`, next: 'quiet' },
    },
    {
      in: ['quiet'],
      on: new RegExp(`${sqlplus}SELECT 'tm-instance[^]*v\\$database;\nEXIT`),
      answer: `${state(0, o.restartedAt)}${scn(4720)}`,
    },
  ];
  return new Dialogue({ start: o.start ?? 'up', lines, outOfOrder: 'SP2-0734: unknown command beginning' });
}

const settings = { kind: 'oracle', sid: 'ERP', home: '/u01/app' };
const hook = (more: object = {}): Hook => createHook(hookSettingsSchema.parse({ ...settings, ...more }) as never);
const hot = { mode: 'hot-backup' };

async function held(dialogue: Dialogue, more: object = {}): Promise<{ readonly hook: Hook; readonly step: HookStep }> {
  const [oracle, step] = [hook(more), hookStep(dialogue)];
  expect(await oracle.prepare(step)).toEqual({ findings: [] });
  await oracle.quiesce(step);
  return { hook: oracle, step };
}

describe('oracle', () => {
  test('checkpoint: archives and checkpoints before the hold, holds nobody, and proves the same instance', async () => {
    const dialogue = database();
    const { hook: oracle, step } = await held(dialogue);
    await oracle.release(step);
    expect(await oracle.verify(step)).toEqual({
      findings: [],
      verifiedBy: [`SCN 4712, checkpoint 4700, instance of ${startedAt}`],
      facts: { scn: '4712', checkpointScn: '4700' },
    });
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'quiet' });
    expect(dialogue.said.some(({ text }) => /BACKUP;| make /.test(text))).toBe(false);
  });

  test('checkpoint of a database that archives nothing', async () => {
    const dialogue = database({ logMode: 'NOARCHIVELOG' });
    await held(dialogue);
    expect(dialogue.violations).toEqual([]);
  });

  test('hot-backup: in backup mode from the quiesce to the release, then archived', async () => {
    const dialogue = database();
    const { hook: oracle, step } = await held(dialogue, hot);
    expect(dialogue.state).toBe('hot');
    await oracle.release(step);
    await oracle.release(step);
    const { findings, verifiedBy } = await oracle.verify(step);
    expect(findings).toEqual([]);
    expect(verifiedBy[1]).toBe('5 data files in backup mode from SCN 4711 until the release');
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'done' });
  });

  test.each([
    ['cluster', { parallel: 'YES' }, {}],
    ['standby', { role: 'PHYSICAL STANDBY', openMode: 'MOUNTED' }, {}],
    ['not-open', { openMode: 'READ ONLY' }, {}],
    ['noarchivelog', { logMode: 'NOARCHIVELOG' }, hot],
    ['in-backup-mode', { active: 2 }, {}],
    ['commit-nowait', { nowait: 'commit_wait = NOWAIT' }, {}],
    ['data-unprotected', { files: ['+DATA/ERP/system01.dbf'] }, {}],
  ] as const)('%s is a finding, and nothing is done', async (code, facts, more) => {
    const dialogue = database(facts);
    expect(await hook(more).prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.state).toBe('seen');
  });

  test.each(files)('%s outside of the group is refused', async (path) => {
    const step = hookStep(database(), { unprotectedPaths: [path] });
    expect(await hook().prepare(step)).toMatchObject({ findings: [{ code: 'data-unprotected' }] });
  });

  test('the disks of ASM disk groups are looked at, under the names of their drivers', async () => {
    const inGroups = { files: ['+DATA/ERP/system01.dbf', '+fra'] };
    for (const path of ['/dev/sdc1', '/dev/oracleasm/disks/FRA1']) {
      const disks = [
        ['DATA', '/dev/sdc1'],
        ['FRA', 'ORCL:FRA1'],
        ['OTHER', '/dev/sdz'],
      ] as const;
      const step = hookStep(database({ ...inGroups, disks }), { unprotectedPaths: [path, '/dev/sdz'] });
      expect(await hook().prepare(step)).toEqual({
        findings: [{ code: 'data-unprotected', reason: `${path} lies on no captured disk` }],
      });
    }
  });

  test.each([
    ['ORA-00257: Archiver error. Connect AS SYSDBA only until resolved.', 'seen', /CHECKPOINT/],
    ['ORA-01034: ORACLE not available', 'up', /v\$datafile/],
    ['SP2-0640: Not connected', 'up', /v\$datafile/],
  ])('%s in prepare is an error in its own words', async (says, state, on) => {
    const dialogue = database({ first: [{ in: [state], on, answer: `ERROR at line 1:\n${says}\n`, exitCode: 9 }] });
    await expect(hook().prepare(hookStep(dialogue))).rejects.toThrow(says);
  });

  test('an answer that it does not know is an error', async () => {
    const dialogue = database({ first: [{ on: /v\$datafile/, answer: 'tm-instance|today\n' }] });
    await expect(hook().prepare(hookStep(dialogue))).rejects.toMatchObject({ code: 'hook-failed' });
  });

  test('a backup mode that is refused, or of which nothing is known, is looked at; its mark stays for the next', async () => {
    const refusals = [
      { answer: 'ORA-01146: cannot start online backup - file 1 is already in backup\n', exitCode: 9 },
      { hangs: true },
    ];
    for (const refusal of refusals) {
      const dialogue = database({ first: [{ in: ['marked'], on: /BEGIN BACKUP/, ...refusal }] });
      const [oracle, step] = [hook(hot), hookStep(dialogue)];
      await oracle.prepare(step);
      await expect(oracle.quiesce(step)).rejects.toThrow(/ORA-01146|took over/);
      await oracle.release(step);
      expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'marked' });
      expect(await hook(hot).undo(step)).toEqual([]);
    }
  });

  test('an end of backup mode that fails is tried again', async () => {
    const refused = { answer: 'ORA-01031: insufficient privileges\n', exitCode: 9, times: 1 };
    const dialogue = database({ first: [{ in: ['hot'], on: /END BACKUP/, ...refused }] });
    const { hook: oracle, step } = await held(dialogue, hot);
    await expect(oracle.release(step)).rejects.toThrow('ORA-01031');
    await oracle.release(step);
    expect(dialogue.state).toBe('done');
  });

  test('an instance started anew, and a backup mode that somebody ended, are no proof', async () => {
    const restarted = await held(database({ restartedAt: '2026-11-23T10:00:00' }));
    expect((await restarted.hook.verify(restarted.step)).findings).toMatchObject([{ code: 'restarted' }]);
    const ended = [{ in: ['hot'], on: /'ACTIVE';\nEXIT/, answer: `${instance(startedAt, 'OPEN', 'NO')}${backup(0)}` }];
    const dialogue = database({ first: [...ended.map((line) => ({ ...line, next: 'ended' }))] });
    const broken = await held(dialogue, hot);
    await broken.hook.release(broken.step);
    expect((await broken.hook.verify(broken.step)).findings).toMatchObject([{ code: 'backup-mode-lost' }]);
  });

  test('undo and the next prepare end a backup mode that our mark tells of, and no other', async () => {
    const left = database({ start: 'left' });
    expect(await hook(hot).undo(hookStep(left))).toEqual(['ended the backup mode of 5 data files of Oracle']);
    expect({ violations: left.violations, state: left.state }).toEqual({ violations: [], state: 'done' });
    const others = database({ active: 3 });
    expect(await hook(hot).undo(hookStep(others))).toEqual([]);
    expect(others.said).toHaveLength(1);
    const down = { answer: 'ORA-01034: ORACLE not available\n', exitCode: 9 };
    const stopped = database({ start: 'left', first: [{ on: /sqlplus/, ...down }] });
    expect(await hook(hot).undo(hookStep(stopped))).toEqual([]);
    expect(stopped.state).toBe('left');
    expect(await hook().undo(hookStep(database({ start: 'left' })))).toEqual([]);
  });

  test('after recovery backup mode is ended and the database opened; an instance that does not run yet is waited for', async () => {
    const crashed = database({ start: 'crashed' });
    await hook(hot).afterRecovery(hookStep(crashed));
    expect({ violations: crashed.violations, state: crashed.state }).toEqual({ violations: [], state: 'done' });
    const down = { answer: 'ORA-01034: ORACLE not available\n', exitCode: 9 };
    const booting = database({ start: 'crashed', first: [{ on: /sqlplus/, ...down }] });
    await expect(hook(hot).afterRecovery(hookStep(booting))).rejects.toThrow('ORA-01034');
    const clean = database();
    await hook(hot).afterRecovery(hookStep(clean));
    expect(clean.said).toHaveLength(1);
  });

  test('the password goes by the input of sqlplus, never by its words', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-oracle-'));
    try {
      const passwordFile = join(directory, 'password');
      writeFileSync(passwordFile, 'tiger\n');
      const dialogue = database({ first: [{ on: /CONNECT tm\/"tiger" AS SYSDBA/, answer: 'ORA-01017: denied\n' }] });
      const words: string[] = [];
      const run = dialogue.run.bind(dialogue);
      dialogue.run = (command, options) => {
        words.push(command.join(' '), JSON.stringify(options.environment ?? {}));
        return run(command, options);
      };
      await expect(hook({ user: 'tm', passwordFile }).prepare(hookStep(dialogue))).rejects.toThrow('ORA-01017');
      expect(words.join()).not.toContain('tiger');
      writeFileSync(passwordFile, 'ti"ger');
      await expect(hook({ user: 'tm', passwordFile }).prepare(hookStep(dialogue))).rejects.toThrow('quotation mark');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
