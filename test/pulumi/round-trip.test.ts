/** A VM goes away and comes home by nothing but configuration and `pulumi up`; what others do meanwhile is never undone. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { AgentHandle } from '../support/agent-handle.js';
import { describePulumi, pulumiTools, toolsTimeoutMs } from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { RoundTripRig } from './round-trip-rig.js';

let rig: RoundTripRig;
describePulumi('away and home by configuration', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeAll(async () => (rig = await RoundTripRig.start()), 120_000);
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  const atHome = { activeSite: 'site-home', dns: 'site-home' };
  const atAway = { activeSite: 'site-away', dns: 'site-away' };
  const request = (name: string, action: string, more: object = {}): Record<string, unknown> => ({
    recovery: { request: name, action, ...more },
  });
  const m1 = request('m1', 'move', { to: 'site-home', shutdownSeconds: 30 });
  const f1 = request('f1', 'failover', { sourceMayBeAlive: true });

  /** As the command line does. */
  async function byHand(agent: AgentHandle, kind: 'failover' | 'commit' | 'reverse', args = {}): Promise<void> {
    const id = `hand-${kind}-${Date.now()}`;
    await agent.client.startOperation(id, { kind, group: 'shop', arguments: args });
    const { error } = await agent.client.waitOperation(id, () => undefined, AbortSignal.timeout(60_000));
    if (error !== null) throw new Error(`${kind}: ${error.message}`);
  }

  /** None of the ways to run an update starts, stops or moves anything after it was done by hand. */
  async function nothingUndone(inputs: Record<string, unknown>, isStale: boolean): Promise<void> {
    const { project } = rig;
    const before = await rig.runs();
    rig.declare(inputs);
    await rig.ok(project.up('--expect-no-changes'));
    rig.declare(inputs, { checkpointIntervalSeconds: 2 });
    if (isStale) await rig.refused(project.up('--skip-preview'), 'stale-epoch', 'nothing was changed');
    else await rig.ok(project.up('--skip-preview'));
    rig.declare(inputs);
    await rig.ok(project.refresh());
    await rig.ok(project.up());
    expect(await rig.runs()).toEqual(before);
  }

  test('protects; the engine is killed in the middle of a failover, and the next update continues it', async () => {
    const { project, atAway: agent } = rig;
    rig.declare();
    const up = rig.ok(project.up());
    await Promise.race([up, waitFor('the group', () => agent.client.group('shop'))]);
    await rig.atHome.start();
    await up;
    await rig.protecting(agent);
    rig.declare(f1);
    const failing = project.start('up', '--yes', '--skip-preview');
    await waitFor('the failover runs', () => agent.client.operation('shop:f1'), { timeoutMs: 60_000 });
    process.kill(failing.pid, 'SIGKILL');
    await failing.ended;
    await rig.ok(project.try('cancel', '--yes'));
    await rig.ok(project.up());
    expect(await project.outputs()).toMatchObject({ ...atAway, state: 'failed-over', lastOperation: 'shop:f1' });
    expect(await rig.away.list()).toEqual(['web']);
    const { operations } = await agent.client.operations({ group: 'shop', kind: 'failover' });
    expect(operations.map(({ id, state }) => [id, state])).toEqual([['shop:f1', 'succeeded']]);
  }, 300_000);

  test('illegal pairs fail in the preview and name the legal ones', async () => {
    for (const action of ['move', 'reverse']) {
      rig.declare(request('x', action));
      await rig.refused(rig.project.preview(), `${action} is not possible`, 'Legal now: rollback, commit');
    }
  }, 300_000);

  test('commit, and a reverse: the application stays where it runs, its journal is at home now', async () => {
    const { project } = rig;
    rig.declare(request('c1', 'commit'));
    await rig.ok(project.up());
    const running = await rig.runs();
    rig.declare(request('v1', 'reverse'));
    // The old VM was left alone by its fence, so two sides run.
    await rig.refused(project.up('--skip-preview'), 'split');
    rig.declare(request('v2', 'reverse', { discardSource: true, to: 'site-home' }));
    await rig.ok(project.up(), 'reverse of shop');
    expect(await project.outputs()).toMatchObject({
      ...{ ...atAway, stateSite: 'site-home', state: 'protecting' },
      ...{ reversed: true, lastOperation: 'shop:v2' },
    });
    expect((await rig.atHome.client.group('shop')).owner).toMatch(/::shop#/);
    expect(await rig.runs()).toEqual({ ...running, home: '' });
    // The agent where it runs is away for a while: the one that holds the journal says it all.
    await rig.atAway.kill();
    await rig.ok(project.refresh('--expect-no-changes'));
    await rig.atAway.start();
    // An old commit of the program comes back.
    rig.declare(f1);
    await rig.ok(project.up());
    expect(await rig.runs()).toEqual({ ...running, home: '' });
  }, 300_000);

  test('home with a move; commit and reverse by hand are never undone', async () => {
    const { project, atHome: keeper } = rig;
    await rig.protecting(keeper);
    rig.declare(m1);
    await rig.ok(project.preview(), 'move of shop at site-home', 'nothing is lost');
    await rig.ok(project.up());
    expect(await project.outputs()).toMatchObject({ ...atHome, state: 'failed-over', lastOperation: 'shop:m1' });
    expect([await rig.home.list(), await rig.away.list()]).toEqual([['web'], []]);
    await byHand(keeper, 'commit');
    await nothingUndone(m1, false);
    await byHand(keeper, 'reverse');
    await nothingUndone(m1, true);
    expect(await project.outputs()).toMatchObject({ ...atHome, stateSite: 'site-away', reversed: false });
    await rig.protecting(rig.atAway);
    await rig.ok(project.preview('--expect-no-changes'));
  }, 300_000);

  test('a failover by hand is not undone; the stack is destroyed only when nothing runs on a view', async () => {
    const { project, atAway: keeper } = rig;
    await byHand(keeper, 'failover', { sourceMayBeAlive: true });
    await nothingUndone(m1, true);
    expect(await project.outputs()).toMatchObject({ ...atAway, state: 'failed-over' });
    await rig.refused(project.destroy(), 'runs a live view');
    await byHand(keeper, 'commit');
    await byHand(keeper, 'reverse', { discardSource: true });
    await rig.ok(project.refresh());
    const running = await rig.runs();
    await rig.ok(project.destroy());
    expect(await rig.runs()).toEqual(running);
    for (const { client } of [keeper, rig.atHome])
      expect((await client.retiredGroups()).map(({ name }) => name)).toContain('shop');
  }, 300_000);
});
