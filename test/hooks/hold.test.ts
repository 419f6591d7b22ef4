import { describe, expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { HeldVm } from '../../agent/src/hooks/held-vm.js';
import { holdAndMark, type HoldOptions, type HoldOutcome } from '../../agent/src/hooks/hold.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { FreezingGuest } from './freezing-guest.js';

const log: string[] = [];
const tiers = (): [FreezingGuest, FreezingGuest, FreezingGuest] => {
  log.length = 0;
  return [new FreezingGuest('db', 2, log), new FreezingGuest('web', 1, log), new FreezingGuest('app', 1, log)];
};

function hold(
  guests: readonly FreezingGuest[],
  more: Partial<HoldOptions<string[]>> = {},
): Promise<HoldOutcome<string[]>> {
  let captured = 1000;
  return holdAndMark({
    ...{ id: 'a1', guests, clock: nodeClock, holdMsMax: 2000, signal: new AbortController().signal },
    mark: () => {
      log.push('mark');
      return guests.map(({ agent }) => agent.state);
    },
    capturedBytes: () => (captured += 500),
    ...more,
  });
}

const held = (entry: string): boolean => /freeze|thaw|mark/.test(entry);

describe('a hold', () => {
  test('dead men first, clients before databases, all at once only for the mark, released in reverse, then proven', async () => {
    const guests = tiers();
    const outcome = await hold(guests);
    expect(outcome.reasons).toEqual([]);
    expect(outcome.mark).toEqual(['frozen', 'frozen', 'frozen']);
    expect(log.slice(0, 3).every((entry) => entry.endsWith('arm'))).toBe(true);
    expect(log.filter(held)).toEqual([
      ...['web freeze', 'app freeze', 'db freeze', 'mark', 'db thaw', 'web thaw', 'app thaw'],
    ]);
    expect(outcome.flushedBytes).toBe(500);
    expect(outcome.vms.map(({ vm, verifiedBy }) => [vm, verifiedBy])).toEqual(
      ['db', 'web', 'app'].map((vm) => [vm, ['3 thawed = 3 frozen', 'dead man cancelled, not fired']]),
    );
    expect(guests.every(({ deadMan }) => deadMan === 'none')).toBe(true);
  });

  test.each(['prepare', 'arm'] as const)('a failed %s holds nobody, and marks all the same', async (step) => {
    const guests = tiers();
    const [db] = guests;
    db.run = () => Promise.reject(new TidemarkError('guest-agent', 'not there'));
    if (step === 'arm') db.settings.length = 0;
    const outcome = await hold(guests);
    expect(outcome.reasons).toMatchObject([{ vm: 'db', step, reason: 'not there' }]);
    expect(log.filter(held)).toEqual(['mark']);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
    expect(guests.map(({ deadMan }) => deadMan)).toEqual(['none', 'none', 'none']);
  });

  test('a failed freeze: what was frozen is thawed, the mark comes after it', async () => {
    const guests = tiers();
    guests[0].agent.failures.set('guest-fsfreeze-freeze', 1);
    const outcome = await hold(guests);
    expect(outcome.reasons).toMatchObject([{ vm: 'db', step: 'quiesce' }]);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
    expect(log.filter(held).at(-1)).toBe('mark');
    expect(guests.every(({ agent }) => agent.state === 'thawed')).toBe(true);
  });

  test('a freeze that never answers is called off at its deadline', async () => {
    const guests = tiers();
    const { agent } = guests[0];
    const call = agent.call.bind(agent);
    agent.call = (command) => (command === 'guest-fsfreeze-freeze' ? new Promise(() => undefined) : call(command));
    const outcome = await hold(guests);
    expect(outcome.reasons).toMatchObject([{ vm: 'db', step: 'quiesce', code: 'timed-out' }]);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
    expect(outcome.holdMs).toBeLessThan(1500);
  });

  test('a thaw that fails is asked for again; the point is crash', async () => {
    const guests = tiers();
    guests[1].agent.failures.set('guest-fsfreeze-thaw', 3);
    const outcome = await hold(guests);
    expect(outcome.mark).toEqual(['frozen', 'frozen', 'frozen']);
    expect(outcome.reasons).toMatchObject([{ vm: 'web', step: 'release' }]);
    expect(guests.every(({ agent }) => agent.state === 'thawed')).toBe(true);
  });

  test('a dead man that fired before the mark makes it crash', async () => {
    const guests = tiers();
    const outcome = await hold(guests, { onStep: (step) => (step === 'mark' ? guests[0].fire() : undefined) });
    expect(outcome.reasons).toMatchObject([
      { vm: 'db', code: 'thawed-early' },
      { vm: 'db', code: 'dead-man-fired' },
    ]);
    expect(guests[0].agent.state).toBe('thawed');
  });

  test('a dead man that says nothing is no proof', async () => {
    const guests = tiers();
    const outcome = await hold(guests, {
      onStep: (step) => {
        if (step === 'verify') guests[2].deadMan = 'none';
      },
    });
    expect(outcome.reasons).toMatchObject([{ vm: 'app', step: 'verify', code: 'hook-failed' }]);
  });

  test('the limit of the whole hold: nothing is marked in it any more', async () => {
    const guests = tiers();
    const late = new Promise<void>((resolve) => nodeClock.after(300, resolve));
    const outcome = await hold(guests, {
      holdMsMax: 200,
      onStep: (step) => (step === 'mark' ? late : undefined),
    });
    expect(outcome.reasons).toMatchObject([{ step: 'mark', code: 'held-too-long' }]);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
  });

  test('called off while held: all is released', async () => {
    const guests = tiers();
    const off = new AbortController();
    const outcome = await hold(guests, {
      signal: off.signal,
      onStep: (step) => (step === 'mark' ? off.abort(new TidemarkError('shutting-down', 'off')) : undefined),
    });
    expect(guests.every(({ agent, deadMan }) => agent.state === 'thawed' && deadMan === 'none')).toBe(true);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
    expect(outcome.reasons.length).toBeGreaterThan(0);
  });

  test('a mark that cannot be placed: released first, then thrown', async () => {
    const guests = tiers();
    const mark = (): never => {
      throw new TidemarkError('illegal-state', 'no link');
    };
    await expect(hold(guests, { mark })).rejects.toThrow('no link');
    expect(guests.every(({ agent, deadMan }) => agent.state === 'thawed' && deadMan === 'none')).toBe(true);
  });

  test('what an agent that died left is thawed and its dead man ended, by another', async () => {
    const [db] = tiers();
    db.deadMan = 'armed';
    await db.agent.call('guest-fsfreeze-freeze');
    const vm = new HeldVm(db, nodeClock, new AbortController().signal);
    expect(await vm.undo()).toEqual(['thawed 3 file systems', 'ended 1 dead men']);
    expect([db.agent.state, db.deadMan]).toEqual(['thawed', 'none']);
    expect(await vm.undo()).toEqual([]);
  });
});
