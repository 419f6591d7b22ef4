import { describe, expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { HoldShare } from '../../agent/src/hooks/hold-share.js';
import { jointHold, type HoldMember } from '../../agent/src/hooks/joint-hold.js';
import type { HoldOutcome } from '../../agent/src/hooks/hold.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { holdShareSchema, holdStepSchema, type HoldStepRequest } from '../../agent/src/service/hold-schemas.js';
import { waitFor } from '../support/wait.js';
import { FreezingGuest } from './freezing-guest.js';

type Step = HoldStepRequest['step'];

/** A source agent: what goes over its API does so as the real one's does. */
class Agent implements HoldMember {
  readonly share: HoldShare;
  readonly asked: Step[] = [];
  readonly off = new AbortController();
  /** Steps whose request (`before`) or reply (`after`) is lost, or whose reply never comes. */
  readonly broken = new Map<Step, 'before' | 'after'>();

  constructor(
    readonly agent: string,
    readonly guests: readonly FreezingGuest[],
    { absent = [], holdMsMax = 2000 }: { absent?: string[]; holdMsMax?: number } = {},
  ) {
    let captured = 0;
    this.share = new HoldShare({
      ...{ id: '0123456789abcdef', guests, absent, holdMsMax, clock: nodeClock, signal: this.off.signal },
      present: guests.flatMap(({ vm }) => [vm, `uuid-of-${vm}`]),
      capturedBytes: () => (captured += 100),
      markUs: () => 40,
    });
  }

  async step(request: HoldStepRequest) {
    this.asked.push(request.step);
    const lost = new TidemarkError('peer-unreachable', `${request.step} is lost`);
    if (this.broken.get(request.step) === 'before') throw lost;
    const state = await this.share.step(holdStepSchema.parse(request));
    if (this.broken.get(request.step) === 'after') throw lost;
    return holdShareSchema.parse(JSON.parse(JSON.stringify(state)));
  }
}

function site(options: { holdMsMax?: number } = {}) {
  const log: string[] = [];
  const guests = {
    db: new FreezingGuest('db', 2, log),
    web: new FreezingGuest('web', 1, log),
    app: new FreezingGuest('app', 1, log),
  };
  const one = new Agent('one', [guests.db, guests.web], options);
  const two = new Agent('two', [guests.app], options);
  const all = Object.values(guests);
  const take = (mark?: () => Promise<string[]>): Promise<HoldOutcome<string[]>> =>
    jointHold({
      ...{ members: [one, two], group: 'erp', clock: nodeClock, signal: new AbortController().signal },
      mark:
        mark ??
        (() => {
          log.push('mark');
          return Promise.resolve(all.map(({ agent }) => agent.state));
        }),
    });
  return { log, guests, all, one, two, take };
}

const free = (guests: readonly FreezingGuest[]): boolean =>
  guests.every(({ agent, deadMan }) => agent.state === 'thawed' && deadMan === 'none');

describe('a hold over two source agents', () => {
  test('tiers go over both, all are held at the mark, each agent proves its part', async () => {
    const { take, log, all } = site();
    const outcome = await take();
    expect(outcome.reasons).toEqual([]);
    expect(outcome.mark).toEqual(['frozen', 'frozen', 'frozen']);
    const held = log.filter((entry) => /freeze|thaw|mark/.test(entry));
    expect(new Set(held.slice(0, 2))).toEqual(new Set(['web freeze', 'app freeze']));
    expect(held.slice(2, 4)).toEqual(['db freeze', 'mark']);
    expect(held.indexOf('db thaw')).toBeLessThan(held.indexOf('web thaw'));
    expect(outcome.vms.map(({ vm, verifiedBy }) => [vm, verifiedBy.at(-1)])).toEqual(
      ['db', 'web', 'app'].map((vm) => [vm, 'dead man cancelled, not fired']),
    );
    expect([outcome.markUs, outcome.flushedBytes]).toEqual([40, 200]);
    expect(free(all)).toBe(true);
  });

  const steps = ['prepare', 'arm', 'quiesce', 'release', 'verify'] as const;
  test.each(steps.flatMap((step) => (['before', 'after'] as const).map((when) => [step, when] as const)))(
    'a %s of one agent that is lost %s it is done: crash, and everybody is released',
    async (step, when) => {
      const { take, all, two } = site({ holdMsMax: 400 });
      two.broken.set(step, when);
      const { reasons } = await take();
      expect(reasons).toContainEqual(expect.objectContaining({ step, code: 'peer-unreachable' }));
      // What the target could not ask for, the agent does by itself.
      if (step === 'release' || step === 'verify') two.off.abort(new TidemarkError('shutting-down', 'over'));
      await waitFor('all are released', () => all.every(({ agent }) => agent.state === 'thawed'), {
        timeoutMs: 5000,
      });
      expect(two.asked).toContain('verify');
    },
  );

  test('a freeze that fails at one agent: nobody is held at the mark', async () => {
    const { take, guests, all } = site();
    guests.app.agent.failures.set('guest-fsfreeze-freeze', 1);
    const outcome = await take();
    expect(outcome.reasons).toMatchObject([{ vm: 'app', step: 'quiesce' }]);
    expect(outcome.mark).toEqual(['thawed', 'thawed', 'thawed']);
    expect(free(all)).toBe(true);
  });

  test('a dead man that fired before the mark at one of them makes it crash', async () => {
    const { take, guests, all } = site();
    const outcome = await take(() => {
      guests.app.fire();
      return Promise.resolve(['marked']);
    });
    expect(outcome.mark).toEqual(['marked']);
    expect(outcome.reasons.map(({ vm, code }) => [vm, code])).toContainEqual(['app', 'dead-man-fired']);
    expect(all.every(({ agent }) => agent.state === 'thawed')).toBe(true);
  });

  test('the target is gone while they are held: each lets go by itself, and proves nothing any more', async () => {
    const { one, two, all } = site({ holdMsMax: 300 });
    for (const agent of [one, two]) {
      await agent.step({ step: 'prepare' });
      await agent.step({ step: 'arm' });
    }
    await Promise.all([one.step({ step: 'quiesce', tier: 1 }), two.step({ step: 'quiesce', tier: 1 })]);
    expect(all.map(({ agent }) => agent.state)).toEqual(['thawed', 'frozen', 'frozen']);
    await waitFor('they are released', () => all.every(({ agent }) => agent.state === 'thawed'), { timeoutMs: 5000 });
    await expect(one.step({ step: 'quiesce', tier: 2 })).rejects.toMatchObject({ code: 'illegal-state' });
    const { reasons } = await one.step({ step: 'verify', marked: true });
    expect(reasons).toMatchObject([{ step: 'mark', code: 'held-too-long' }]);
    await two.step({ step: 'verify', marked: false });
    expect(free(all)).toBe(true);
  });

  test('a mark that takes longer than the hold of one agent is no application checkpoint', async () => {
    const { take, all } = site({ holdMsMax: 300 });
    const outcome = await take(async () => {
      await new Promise<void>((resolve) => nodeClock.after(500, resolve));
      return ['late'];
    });
    expect(outcome.mark).toEqual(['late']);
    expect(outcome.reasons.map(({ code }) => code)).toContain('held-too-long');
    expect(free(all)).toBe(true);
  });

  test('a barrier that breaks is tried again within the hold; one that always does marks nothing', async () => {
    const { take, all } = site();
    let tries = 0;
    const broken = (): Error => new TidemarkError('barrier-broken', 'a round trip took too long');
    const outcome = await take(() => (++tries < 3 ? Promise.reject(broken()) : Promise.resolve(['third'])));
    expect([outcome.mark, outcome.reasons]).toEqual([['third'], []]);
    const again = site();
    await expect(again.take(() => Promise.reject(broken()))).rejects.toMatchObject({ code: 'barrier-broken' });
    expect(free([...all, ...again.all])).toBe(true);
  });

  test('a VM may be at either agent, but must be at one; without any hooks there is no hold', async () => {
    const guest = new FreezingGuest('db', 1);
    const here = (absent: string[]) => [
      new Agent('one', [guest], { absent }),
      new Agent('two', [], { absent: ['db'] }),
    ];
    const take = (members: Agent[]): Promise<HoldOutcome<string>> =>
      jointHold({
        ...{ members, group: 'erp', clock: nodeClock, signal: new AbortController().signal },
        mark: () => Promise.resolve(guest.agent.state),
      });
    expect(await take(here([]))).toMatchObject({ mark: 'frozen', reasons: [] });
    expect(await take(here(['client']))).toMatchObject({ reasons: [{ vm: 'client', code: 'vm-unknown' }] });
    await expect(take([new Agent('one', []), new Agent('two', [])])).rejects.toMatchObject({ code: 'hooks-none' });
  });

  test('called off while held, it is no proof, and the target tells every agent', async () => {
    const { one, two, all } = site();
    const off = new AbortController();
    const outcome = await jointHold({
      ...{ members: [one, two], group: 'erp', clock: nodeClock, signal: off.signal },
      mark: () => {
        if (off.signal.aborted) return Promise.resolve('outside');
        off.abort(new TidemarkError('shutting-down', 'off'));
        return Promise.reject(new TidemarkError('barrier-broken', 'off'));
      },
    });
    expect(outcome.mark).toBe('outside');
    expect(outcome.reasons.length).toBeGreaterThan(0);
    expect(free(all)).toBe(true);
  });

  test('steps come in their order, and a proof is asked for before the end', async () => {
    const { two } = site();
    await expect(two.step({ step: 'arm' })).rejects.toMatchObject({ code: 'illegal-state' });
    await two.step({ step: 'prepare' });
    await expect(two.step({ step: 'prepare' })).rejects.toMatchObject({ code: 'illegal-state' });
    await two.step({ step: 'verify', marked: false });
    await expect(two.step({ step: 'verify', marked: true })).rejects.toMatchObject({ code: 'illegal-state' });
    await expect(two.step({ step: 'arm' })).rejects.toMatchObject({ code: 'illegal-state' });
  });
});
