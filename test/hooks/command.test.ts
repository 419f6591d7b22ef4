import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Hook } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { waitFor } from '../support/wait.js';
import { LocalGuest } from './local-guest.js';
import { hookStep } from './step.js';

let directory: string;
const step = hookStep(new LocalGuest());
const said = (): string[] =>
  existsSync(join(directory, 'log')) ? readFileSync(join(directory, 'log'), 'utf8').trim().split('\n') : [];
/** A program that says that it ran, with what the hook tells it. */
const saying = (word: string, more = ''): string[] => [
  '/bin/sh',
  '-c',
  `echo "${word} $TIDEMARK_STEP $TIDEMARK_VM" >>"$1/log"; ${more}`,
  "it's",
  directory,
];
const hook = (more: object = {}): Hook =>
  createHook(
    hookSettingsSchema.parse({ kind: 'command', quiesce: saying('hold'), release: saying('go'), ...more }) as never,
  );

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-command-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe('command', () => {
  test('each program runs in its step; the guest did not release by itself: the sleep was killed', async () => {
    const command = hook({
      ...{ prepare: saying('flush'), verify: saying('look', 'echo drained'), afterRecovery: saying('begin') },
    });
    expect(await command.prepare(step)).toEqual({ findings: [] });
    await command.quiesce(step);
    await command.release(step);
    await command.release(step);
    expect(await command.verify(step)).toEqual({
      findings: [],
      verifiedBy: ['/bin/sh held, the guest did not release by itself', 'drained'],
    });
    await command.afterRecovery(step);
    expect(said()).toEqual([
      ...['flush prepare db', 'hold quiesce db', 'go release db', 'look verify db', 'begin afterRecovery db'],
    ]);
  });

  test('a quiesce that fails says its status and its own words, and is released all the same', async () => {
    const command = hook({ quiesce: saying('hold', 'echo queue is full >&2; exit 3') });
    await expect(command.quiesce(step)).rejects.toThrow('/bin/sh in db ended with 3: queue is full');
    await command.release(step);
    expect(said()).toEqual(['hold quiesce db', 'go release db']);
  });

  test('a release that fails may be asked again, and the guest goes on meaning to do it', async () => {
    const command = hook({ release: saying('go', '[ -e "$1/may" ] || { echo not yet >&2; exit 1; }') });
    await command.quiesce(step);
    await expect(command.release(step)).rejects.toThrow('ended with 1: not yet');
    writeFileSync(join(directory, 'may'), '');
    await command.release(step);
    expect((await command.verify(step)).findings).toEqual([]);
  });

  test('nothing was held: release runs nothing; a verify that fails is no proof', async () => {
    const command = hook({ verify: saying('look', 'echo a message went out >&2; exit 1') });
    await command.release(step);
    expect(said()).toEqual([]);
    await command.quiesce(step);
    await command.release(step);
    await expect(command.verify(step)).rejects.toThrow('ended with 1: a message went out');
  });

  test('an agent that is silent: the guest releases by itself, and the point is no application point', async () => {
    const command = hook({ releaseAfterSeconds: 2 });
    await command.quiesce(step);
    await waitFor('the guest releases', () => said().includes('go quiesce db'), { timeoutMs: 20_000 });
    await command.release(step);
    expect((await command.verify(step)).findings).toMatchObject([{ code: 'released-early' }]);
  });

  test('a quiesce that takes too long leaves no timer that would break the next hold', async () => {
    const late = hook({ quiesce: saying('hold', 'exec sleep 60'), releaseAfterSeconds: 3 });
    await expect(late.quiesce({ ...step, leftMs: () => 1000 })).rejects.toMatchObject({ code: 'timed-out' });
    await late.release(step);
    const at = performance.now();
    await waitFor('its time is over', () => performance.now() - at > 3500, { timeoutMs: 10_000 });
    expect(said()).toEqual(['hold quiesce db', 'go release db']);
  });

  test('undo of a later agent ends the timer of the one before, and releases', async () => {
    await hook({ releaseAfterSeconds: 2 }).quiesce(step);
    expect(await hook().undo(step)).toEqual([]);
    expect(await hook({ undo: saying('end', 'echo the drain was on') }).undo(step)).toEqual(['the drain was on']);
    const at = performance.now();
    await waitFor('its time is over', () => performance.now() - at > 2500, { timeoutMs: 10_000 });
    expect(said()).toEqual(['hold quiesce db', 'go undo db', 'end undo db']);
  });
});
