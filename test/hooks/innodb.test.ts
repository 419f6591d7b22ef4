import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { Hook, HookStep } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { hookStep } from './step.js';

const sound = {
  flushAtCommit: 1,
  binlog: 1,
  syncBinlog: 1,
  doublewrite: 'ON',
  flushMethod: 'O_DIRECT',
  redoLog: 'ON',
  replica: 0,
  otherTables: [] as string[],
  dataDirectory: '/var/lib/mysql/',
  dataHome: null as string | null,
  dataFiles: 'ibdata1:12M:autoextend',
  others: ['./', '/wal/redo', null, '/wal/binlog/'],
  tablespaces: ['/fast/shop/orders.ibd'],
};
const lockTimeout = 'ERROR 1205 (HY000) at line 3: Lock wait timeout exceeded; try restarting transaction\n';

const products = [
  {
    ...{
      kind: 'mariadb',
      product: 'MariaDB',
      outOfOrder: 'ERROR 4146 (HY000): You must start backup with "BACKUP STAGE START"',
    },
    hold: /^BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT; SELECT CONCAT\('tm-held '/,
    free: /^BACKUP STAGE END; SELECT CONCAT\('tm-free '/,
  },
  {
    ...{ kind: 'mysql', product: 'MySQL', outOfOrder: 'ERROR 1064 (42000): You have an error in your SQL syntax' },
    hold: /^LOCK INSTANCE FOR BACKUP; FLUSH TABLES WITH READ LOCK; SELECT CONCAT\('tm-held '/,
    free: /^UNLOCK TABLES; UNLOCK INSTANCE; SELECT CONCAT\('tm-free '/,
  },
] as const;

/** A step that has time. */
const patient = (dialogue: Dialogue): HookStep => ({ ...hookStep(dialogue), leftMs: () => 60_000 });

interface Server {
  readonly settings?: Partial<typeof sound>;
  /** Answers to the questions what would be replayed, one after the other. */
  readonly redoBytes?: readonly number[];
  /** What the session says when it has let go. */
  readonly free?: string;
  readonly isLowered?: boolean;
  /** Lines before the usual ones. */
  readonly first?: readonly DialogueLine[];
}

describe.each(products)('$kind', ({ kind, product, outOfOrder, hold, free }) => {
  /** Has to be looked at, lowered and restored, opened, held and let go in this order. */
  function server({
    settings = {},
    redoBytes = [900],
    free: freed = 'tm-free 17 101\n',
    isLowered,
    first = [],
  }: Server): Dialogue {
    let at = 0;
    const redo = (): string => `{"redoBytes": ${redoBytes[Math.min(at++, redoBytes.length - 1)]}}\n`;
    const restore =
      /SET GLOBAL innodb_max_dirty_pages_pct = .*\* 1000000.*;\nSET GLOBAL innodb_max_dirty_pages_pct_lwm = /;
    const lines: DialogueLine[] = [
      ...first,
      { in: ['up'], on: /'flushAtCommit'/, answer: `${JSON.stringify({ ...sound, ...settings })}\n`, next: 'seen' },
      { in: ['up'], on: /'isLowered'/, answer: `{"isLowered": ${isLowered === true ? 1 : 0}}\n` },
      { in: ['up'], on: restore },
      {
        in: ['seen'],
        on: /SET GLOBAL innodb_max_dirty_pages_pct_lwm = .*\/ 1000000.*;\nSET GLOBAL innodb_max_dirty_pages_pct = .*;\nSELECT/,
        ...{ answer: redo, next: 'lowered' },
      },
      { in: ['lowered'], on: restore, next: 'seen' },
      { in: ['seen', 'lowered'], on: /^\S+ --batch .*\nSELECT JSON_OBJECT\('redoBytes'/, answer: redo },
      { in: ['seen'], on: /--skip-reconnect --socket=\S+ --user=root$/ },
      { in: ['seen'], on: /^SET SESSION lock_wait_timeout = 1, wait_timeout = 900;$/ },
      { in: ['seen'], on: /'tm-open '/, answer: 'tm-open 17\n', next: 'open' },
      { in: ['open'], on: hold, answer: 'tm-held 17 100 3000\n', next: 'held' },
      { in: ['held'], on: free, answer: freed, next: 'free' },
    ];
    return new Dialogue({ start: 'up', lines, outOfOrder });
  }
  const hook = (more: object = {}): Hook =>
    createHook(hookSettingsSchema.parse({ kind, redoBytesMax: 1000, ...more }) as never);

  test('little to replay: one session holds, lets go, and proves that it was the same all the time', async () => {
    const [dialogue, innodb] = [server({}), hook()];
    const step = hookStep(dialogue);
    expect(await innodb.prepare(step)).toEqual({ findings: [] });
    await innodb.quiesce(step);
    expect(dialogue.state).toBe('held');
    await innodb.release(step);
    await innodb.release(step);
    expect(await innodb.verify(step)).toEqual({
      findings: [],
      verifiedBy: [`${product} connection 17 held and let go`],
      facts: { innodbRedoBytes: 3000 },
    });
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'free' });
    expect(dialogue.said.some(({ text }) => text.includes('max_dirty_pages'))).toBe(false);
  });

  test('dirty pages are driven down before, and the limit is restored', async () => {
    const dialogue = server({ redoBytes: [90_000, 80_000, 20_000, 400] });
    await hook().prepare(patient(dialogue));
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'open' });
    expect(dialogue.said.filter(({ state, text }) => state === 'lowered' && text.includes('redoBytes'))).toHaveLength(
      2,
    );
  });

  test('the limit is restored also when the time is over, and when the server fails in between', async () => {
    const never = server({ redoBytes: [90_000] });
    await hook({ flushSecondsMax: 0.2 }).prepare(patient(never));
    expect(never.state).toBe('open');
    const failing = server({
      redoBytes: [90_000],
      first: [
        {
          in: ['lowered'],
          on: /SELECT JSON_OBJECT\('redoBytes'/,
          errors: 'ERROR 2013 (HY000): Lost connection',
          exitCode: 1,
        },
      ],
    });
    await expect(hook().prepare(patient(failing))).rejects.toThrow('Lost connection');
    expect({ violations: failing.violations, state: failing.state }).toEqual({ violations: [], state: 'seen' });
  });

  test.each([
    ['commits-not-flushed', { flushAtCommit: 2 }],
    ['binlog-not-flushed', { syncBinlog: 0 }],
    ['doublewrite-off', { doublewrite: 'OFF' }],
    ['fsync-off', { flushMethod: 'nosync' }],
    ['redo-log-off', { redoLog: 'OFF' }],
    ['not-innodb', { otherTables: ['shop.carts (MyISAM)'] }],
    ['replica', { replica: 1 }],
  ])('%s is a finding, and nothing is asked of it any more', async (code, settings) => {
    const dialogue = server({ settings });
    expect(await hook().prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.said).toHaveLength(1);
  });

  test('sync_binlog does not matter without a binary log', async () => {
    const dialogue = server({ settings: { binlog: 0, syncBinlog: 0 } });
    expect(await hook().prepare(hookStep(dialogue))).toEqual({ findings: [] });
  });

  test.each(['/var/lib/mysql', '/wal/redo', '/wal/binlog', '/fast/shop'])(
    'data in %s that is not captured is a finding',
    async (path) => {
      const step = hookStep(server({}), { unprotectedPaths: [path] });
      expect(await hook().prepare(step)).toMatchObject({ findings: [{ code: 'data-unprotected' }] });
    },
  );

  test('a lock that is not granted is an error, ends the session, and is not let go twice', async () => {
    const dialogue = server({ first: [{ in: ['open'], on: hold, answer: lockTimeout, ends: true, next: 'refused' }] });
    const [innodb, step] = [hook(), hookStep(dialogue)];
    await innodb.prepare(step);
    await expect(innodb.quiesce(step)).rejects.toThrow('Lock wait timeout exceeded');
    await innodb.release(step);
    await innodb.release(step);
    expect(await dialogue.sessions[0]!.isOpen()).toBe(false);
    expect((await innodb.verify(step)).findings).toMatchObject([{ code: 'session-lost' }]);
  });

  test('a hold that is not answered in time is called off by the end of its session', async () => {
    const dialogue = server({ first: [{ in: ['open'], on: hold, hangs: true }] });
    const [innodb, step] = [hook(), hookStep(dialogue)];
    await innodb.prepare(step);
    await expect(innodb.quiesce(step)).rejects.toThrow('did not come within');
    await innodb.release(step);
    expect(await dialogue.sessions[0]!.isOpen()).toBe(false);
  });

  test('a session that died while it held, one of another connection, and a server started anew are no proof', async () => {
    for (const { freed, dies } of [
      { freed: '', dies: true },
      { freed: 'tm-free 18 101\n', dies: false },
      { freed: 'tm-free 17 3\n', dies: false },
    ]) {
      const dialogue = server({ free: freed });
      const [innodb, step] = [hook(), hookStep(dialogue)];
      await innodb.prepare(step);
      await innodb.quiesce(step);
      if (dies) dialogue.sessions[0]!.end();
      await innodb.release(step);
      expect((await innodb.verify(step)).findings).toMatchObject([{ code: 'session-lost' }]);
    }
  });

  test('a later agent restores what one before it left lowered', async () => {
    const left = server({ isLowered: true });
    expect(await hook().undo(hookStep(left))).toEqual([`restored innodb_max_dirty_pages_pct of ${product}`]);
    expect(left.violations).toEqual([]);
    const clean = server({});
    expect(await hook().undo(hookStep(clean))).toEqual([]);
    expect(clean.said).toHaveLength(1);
    const refused = { errors: "ERROR 2002 (HY000): Can't connect to local server through socket", exitCode: 1 };
    expect(await hook().undo(hookStep(server({ first: [{ on: /isLowered/, ...refused }] })))).toEqual([]);
    const denied = { errors: 'ERROR 1045 (28000): Access denied', exitCode: 1 };
    await expect(hook().undo(hookStep(server({ first: [{ on: /isLowered/, ...denied }] })))).rejects.toThrow('denied');
  });

  test('the password goes by the environment, never by the command', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-sql-'));
    try {
      const passwordFile = join(directory, 'password');
      writeFileSync(passwordFile, 'tiger\n');
      const dialogue = server({});
      const environments: unknown[] = [];
      const run = dialogue.run.bind(dialogue);
      dialogue.run = (command, options) => {
        environments.push(options.environment);
        return run(command, options);
      };
      await hook({ passwordFile }).prepare(hookStep(dialogue));
      expect(environments[0]).toEqual({ MYSQL_PWD: 'tiger' });
      expect(JSON.stringify(dialogue.said)).not.toContain('tiger');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
