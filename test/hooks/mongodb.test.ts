import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { sleep } from '../../agent/src/core/clock.js';
import { endTimerScript, timerScript, timersScript } from '../../agent/src/hooks/mongodb-scripts.js';
import type { Hook, HookStep } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { LocalGuest } from './local-guest.js';
import { hookStep } from './step.js';

const sound = {
  ...{ isMongos: false, clusterRole: '', setName: 'rs0', members: 3, isPrimary: false, isSecondary: true },
  ...{ engine: 'wiredTiger', journal: true, isLocked: false, dbPath: '/var/lib/mongodb', version: '7.0.14' },
};
const notLocked = 'test> tm-error IllegalOperation fsyncUnlock called when not locked\n';

interface Server {
  readonly facts?: Partial<typeof sound>;
  readonly first?: readonly DialogueLine[];
  readonly start?: string;
}

/** A server that has to be looked at, given a timer, locked and unlocked in this order; prompts are in its answers. */
function server({ facts = {}, first = [], start = 'up' }: Server): Dialogue {
  const lines: DialogueLine[] = [
    ...first,
    { in: ['up'], on: /^timeout -s KILL 900 mongosh --quiet --norc --host 127\.0\.0\.1 --port 27017$/ },
    { in: ['up'], on: /'facts '/, answer: `test> tm-facts ${JSON.stringify({ ...sound, ...facts })}\n`, next: 'seen' },
    {
      in: ['seen'],
      on: /setsid [^]* sh 20 mongosh --quiet [^]*\ntry \{ var a = .*fsyncUnlock: 1/,
      ...{ answer: 'timer 4711\n', next: 'timed' },
    },
    {
      in: ['timed'],
      on: /^try \{ var l = .*\{ fsync: 1, lock: true, fsyncLockAcquisitionTimeoutMillis: 1000 \}/,
      ...{ answer: 'test> tm-held {"lockCount":1}\n', next: 'locked' },
    },
    { in: ['locked'], on: /^try \{ var l = .*\{ fsyncUnlock: 1 \}/, answer: 'tm-free {"lockCount":0}\n', next: 'free' },
    { in: ['free'], on: /timer unfired[^]* sh 4711 20$/, answer: 'timer unfired\n', next: 'done' },
    // A session of its own, for what is not certain.
    {
      in: ['locked', 'left'],
      on: /^\/bin\/sh -c exec "\$@" sh mongosh [^]*fsyncUnlock: 1/,
      ...{ answer: 'test> tm-unlocked 0\n', next: 'free' },
    },
    {
      in: ['seen', 'timed', 'free', 'alone'],
      on: /^\/bin\/sh -c exec "\$@" sh mongosh [^]*fsyncUnlock: 1/,
      answer: 'test> tm-not-locked\n',
    },
    { in: ['left', 'alone'], on: / sh look$/, answer: 'timer 812\n' },
    { in: ['up'], on: / sh look$/ },
    { in: ['free', 'alone'], on: / sh end$/, answer: 'timer 812\n', next: 'ended' },
  ];
  return new Dialogue({ start, lines, outOfOrder: 'MongoServerError: command not expected here' });
}
const hook = (more: object = {}): Hook => createHook(hookSettingsSchema.parse({ kind: 'mongodb', ...more }) as never);

async function held(dialogue: Dialogue): Promise<{ readonly hook: Hook; readonly step: HookStep }> {
  const [mongodb, step] = [hook(), hookStep(dialogue)];
  await mongodb.prepare(step);
  await mongodb.quiesce(step);
  return { hook: mongodb, step };
}

describe('mongodb', () => {
  test('locks and unlocks in one session, and proves that the guest had not unlocked by itself', async () => {
    const [dialogue, mongodb] = [server({}), hook()];
    const step = hookStep(dialogue);
    expect(await mongodb.prepare(step)).toEqual({ findings: [] });
    await mongodb.quiesce(step);
    expect(dialogue.state).toBe('locked');
    await mongodb.release(step);
    await mongodb.release(step);
    expect(await mongodb.verify(step)).toEqual({
      findings: [],
      verifiedBy: ['fsyncLock held by one session, lockCount 1 then 0; the guest did not unlock by itself'],
    });
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'done' });
  });

  test.each([
    ['mongos', { isMongos: true }],
    ['sharded-cluster', { clusterRole: 'shardsvr' }],
    ['storage-engine', { engine: 'inMemory' }],
    ['version', { version: '7.0.1' }],
    ['version', { version: '6.0.11' }],
    ['journal-off', { journal: false }],
    ['not-ready', { isSecondary: false }],
    ['primary', { isSecondary: false, isPrimary: true }],
    ['locked-by-others', { isLocked: true }],
  ])('%s is a finding, and nothing is locked', async (code, facts) => {
    const dialogue = server({ facts });
    expect(await hook().prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.state).toBe('seen');
  });

  test('standalone, the only member of a set, and a primary when it is asked for may be locked', async () => {
    for (const facts of [
      { setName: '', members: 0, isPrimary: true, isSecondary: false },
      { members: 1, isPrimary: true, isSecondary: false },
      { version: '8.0.0-rc1' },
      { version: '7.0.2' },
    ])
      expect(await hook().prepare(hookStep(server({ facts })))).toEqual({ findings: [] });
    const primary = server({ facts: { isPrimary: true, isSecondary: false } });
    expect(await hook({ lockPrimary: true }).prepare(hookStep(primary))).toEqual({ findings: [] });
  });

  test('a data path or a journal that is not captured is a finding', async () => {
    for (const path of ['/var/lib/mongodb', '/var/lib/mongodb/journal'])
      expect(await hook().prepare(hookStep(server({}), { unprotectedPaths: [path] }))).toMatchObject({
        findings: [{ code: 'data-unprotected' }],
      });
  });

  test('a lock that is not granted is an error; what is not certain is looked at anew, and left to the guest', async () => {
    for (const refusal of [
      { answer: 'test> tm-error LockTimeout Fsync lock timed out\n', says: 'LockTimeout' },
      { hangs: true, says: 'did not come within' },
    ]) {
      const dialogue = server({ first: [{ in: ['timed'], on: /lock: true/, ...refusal }] });
      const [mongodb, step] = [hook(), hookStep(dialogue)];
      await mongodb.prepare(step);
      await expect(mongodb.quiesce(step)).rejects.toThrow(refusal.says);
      await mongodb.release(step);
      expect(dialogue.said.some(({ text }) => text.includes('timer unfired'))).toBe(false);
      expect(await dialogue.sessions[0]!.isOpen()).toBe(false);
      expect((await mongodb.verify(step)).findings).toMatchObject([{ code: 'lock-lost' }]);
      expect(dialogue.violations).toEqual([]);
    }
  });

  test('without the timer in the guest nothing is locked', async () => {
    const dialogue = server({ first: [{ in: ['seen'], on: /setsid/, answer: 'timer \n' }] });
    const [mongodb, step] = [hook(), hookStep(dialogue)];
    await mongodb.prepare(step);
    await expect(mongodb.quiesce(step)).rejects.toThrow('could not be told to unlock');
    expect(dialogue.said.some(({ text }) => text.includes('lock: true'))).toBe(false);
    await mongodb.release(step);
    expect(dialogue.violations).toEqual([]);
  });

  test('a session that died is replaced by another that unlocks; then nothing is proven', async () => {
    const dialogue = server({});
    const { hook: mongodb, step } = await held(dialogue);
    dialogue.sessions[0]!.end();
    await mongodb.release(step);
    expect(dialogue.state).toBe('done');
    expect((await mongodb.verify(step)).findings).toMatchObject([{ code: 'lock-lost' }]);
    expect(dialogue.violations).toEqual([]);
  });

  test('unlocked by the guest, by others or by a restart: no proof', async () => {
    const gone = server({ first: [{ in: ['locked'], on: /var l = .*fsyncUnlock/, answer: notLocked, next: 'free' }] });
    const first = await held(gone);
    await first.hook.release(first.step);
    expect((await first.hook.verify(first.step)).findings).toMatchObject([{ code: 'lock-lost' }]);
    const fired = server({ first: [{ in: ['free'], on: /timer unfired/, answer: 'timer fired\n' }] });
    const second = await held(fired);
    await second.hook.release(second.step);
    expect((await second.hook.verify(second.step)).findings).toMatchObject([{ code: 'lock-lost' }]);
  });

  test('undo unlocks where our timer is, and nowhere else', async () => {
    const left = server({ start: 'left' });
    expect(await hook().undo(hookStep(left))).toEqual(['unlocked MongoDB']);
    expect({ violations: left.violations, state: left.state }).toEqual({ violations: [], state: 'ended' });
    const alone = server({ start: 'alone' });
    expect(await hook().undo(hookStep(alone))).toEqual([]);
    expect(alone.state).toBe('ended');
    const others = server({});
    expect(await hook().undo(hookStep(others))).toEqual([]);
    expect(others.said).toHaveLength(1);
    const refused = { errors: 'MongoNetworkError: connect ECONNREFUSED 127.0.0.1:27017', exitCode: 1, next: 'free' };
    const down = server({ start: 'left', first: [{ on: /exec "\$@" sh mongosh/, ...refused }] });
    expect(await hook().undo(hookStep(down))).toEqual([]);
    expect(down.state).toBe('ended');
    const denied = { answer: 'tm-error Unauthorized not authorized on admin\n' };
    const forbidden = server({ start: 'left', first: [{ on: /exec "\$@" sh mongosh/, ...denied }] });
    await expect(hook().undo(hookStep(forbidden))).rejects.toThrow('Unauthorized');
  });

  test('the password goes by the input of the client, never by its words', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-mongo-'));
    try {
      const passwordFile = join(directory, 'password');
      writeFileSync(passwordFile, 'tiger"\n');
      const login = { in: ['up'], on: /^try .*auth\(\{"user":"tm","pwd":"tiger\\""\}\)/, answer: 'test> ' };
      const words: string[] = [];
      const dialogue = server({ first: [login] });
      const open = dialogue.open.bind(dialogue);
      dialogue.open = (command, options) => {
        words.push(command.join(' '));
        return open(command, options);
      };
      expect(await hook({ user: 'tm', passwordFile }).prepare(hookStep(dialogue))).toEqual({ findings: [] });
      expect(words.join()).not.toContain('tiger');
      expect(() => hookSettingsSchema.parse({ kind: 'mongodb', user: 'tm' })).toThrow('user and passwordFile');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

describe('the timer of mongodb in a guest', () => {
  const guest = new LocalGuest();
  const sh = async (script: string, args: readonly string[], input = ''): Promise<string> =>
    (await guest.run(['/bin/sh', '-c', script, 'sh', ...args], { input, timeoutMs: 10_000 })).stdout;
  const pidOf = (text: string): string => /^timer (\d+)$/m.exec(text)![1]!;

  test('unlocks by itself when it is left alone, and not when it was ended', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-timer-'));
    try {
      const place = join(directory, 'said');
      const client = ['sh', '-c', 'cat >>"$0"; echo tm-unlocked 0', place];
      const kept = pidOf(await sh(timerScript, ['61', ...client], 'ended'));
      expect(await sh(timersScript, ['look'])).toMatch(/^timer \d+$/m);
      expect(await sh(endTimerScript, ['4194305', '61'])).toBe('timer fired\n');
      expect(await sh(endTimerScript, [kept, '61'])).toBe('timer unfired\n');
      await sh(timerScript, ['1', ...client], 'unlock()');
      const untilMs = nodeClock.monotonicMs() + 20_000;
      let said = '';
      while (said === '' && nodeClock.monotonicMs() < untilMs) {
        await sleep(nodeClock, 50);
        said = await sh('cat "$1" 2>/dev/null; true', [place]);
      }
      expect(said).toBe('unlock()\n');
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  test('undo ends those that are left', async () => {
    const pid = pidOf(await sh(timerScript, ['62', 'true']));
    await sh(timersScript, ['end']);
    const untilMs = nodeClock.monotonicMs() + 10_000;
    let state = 'there';
    while (state !== '' && nodeClock.monotonicMs() < untilMs) {
      await sleep(nodeClock, 20);
      state = await sh('tr "\\0" " " <"/proc/$1/cmdline" 2>/dev/null; true', [pid]);
    }
    expect(state).toBe('');
  });
});
