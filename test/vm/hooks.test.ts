/**
 * Application checkpoints of two real VMs under load, held by tier: the client is drained, fsfreeze in both, PostgreSQL. Commits are
 * kept outside of the VMs, with this host's clock. Then agent and guest agent are killed while a guest is frozen.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import { CommitLog, firstNumber } from '../support/commit-log.js';
import { lookInto } from '../support/exported-application.js';
import { guestExec } from '../support/guest-agent.js';
import { bootHookedSites, holdOf, holdSecondsMax } from '../support/hooked-sites.js';
import { jointGroup, splitSites } from '../support/split-sites.js';
import { checkApplication, waitApplication } from '../support/two-tier.js';
import { group, pairOf, type TwoTierSites } from '../support/two-tier-sites.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import { seconds, tell } from './tell.js';

const reason = whyNoVms();
const describeVms = reason === undefined ? describe : describe.skip;

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;

/** What the guest agent believes; it answers this also while it is frozen. */
async function frozenState(virsh: Virsh, vm: string): Promise<string> {
  const request = JSON.stringify({ execute: 'guest-fsfreeze-status' });
  const text = await virsh.run(['qemu-agent-command', vm, request, '--timeout', '5']);
  return (JSON.parse(text) as { return: string }).return;
}

async function writeCount(virsh: Virsh, vm: string, disk: string): Promise<number> {
  return Number(/wr_req (\d+)/.exec(await virsh.run(['domblkstat', vm, disk]))?.[1]);
}

describeVms(`application checkpoints of two real VMs${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let sites: TwoTierSites;
  const inGuest = (vm: string, script: string): Promise<string> =>
    guestExec(sites.here.virsh, vm, ['/bin/sh', '-c', script]);
  const take = (label?: string): Promise<Checkpoint> =>
    sites.target.client.createCheckpoint(group, label === undefined ? {} : { label });

  beforeAll(async () => {
    sites = await bootHookedSites({ drained: true });
    // It would log all pages of the table once, at any moment: no measure of what a hold leaves to replay.
    const sql = 'alter table numbers set (autovacuum_enabled = off)';
    await inGuest('db', `/opt/postgresql/psql -h /run -U postgres -c '${sql}' postgres`);
  }, 900_000);
  afterAll(async () => sites?.[Symbol.asyncDispose](), 60_000);

  test('under load: nothing acknowledged before the hold is missing, nothing sent after it is there; little to replay', async () => {
    const { here, lab, target } = sites;
    const log = await CommitLog.start(lab.processes, here.virsh);
    const taken: Checkpoint[] = [];
    for (let count = 0; count < 3; count++) {
      // Without its drain the client may have a commit under way.
      await inGuest('client', count === 1 ? 'touch /run/undrained' : 'rm -f /run/undrained');
      taken.push(await take(count === 0 ? 'before-upgrade' : undefined));
      const enough = log.commits.length + 20;
      await waitFor('commits in between', () => log.commits.length > enough, { timeoutMs: 60_000 });
    }
    const crashes = (await target.client.checkpoints(group, { kind: 'crash', complete: true, limit: 20 })).checkpoints;
    await log.stop();
    for (const checkpoint of taken) {
      expect({ kind: checkpoint.kind, reasons: holdOf(checkpoint).reasons }).toEqual({
        kind: 'application',
        reasons: [],
      });
      const { vms } = holdOf(checkpoint);
      expect(vms.map(({ vm }) => vm)).toEqual(['client', 'db']);
      expect(vms.map(({ verifiedBy }) => verifiedBy.at(-1))).toEqual(
        ['client', 'db'].map(() => 'dead man cancelled, not fired'),
      );
    }
    expect(taken[0]!.label).toBe('before-upgrade');
    const latest = await target.client.resolveCheckpoint(group, { by: 'latest-application' });
    expect(latest.id).toBe(taken.at(-1)!.id);

    const redo: number[] = [];
    for (const [index, checkpoint] of taken.entries()) {
      const { heldFromMs, holdMs, markUs, thawMs, flushedBytes, vms } = holdOf(checkpoint);
      const inside = await lookInto(sites, `hold-${index}`, { db: checkpoint.id });
      const present = new Set(inside.present);
      const missing = log.commits.filter((each) => each.acknowledgedMs < heldFromMs && !present.has(each.number));
      const tooLate = log.commits.filter((each) => each.sentMs > heldFromMs + holdMs && present.has(each.number));
      const before = log.commits.filter((each) => each.acknowledgedMs < heldFromMs).length;
      expect({ missing, tooLate, some: before > 0 }).toEqual({ missing: [], tooLate: [], some: true });
      expect(inside.acknowledged.filter((number) => !present.has(number))).toEqual([]);
      const committed = inside.present.filter((number) => number < firstNumber).length;
      const underWay = committed - inside.acknowledged.length;
      tell(`client ${index === 1 ? 'not ' : ''}drained: ${underWay} commits under way`);
      if (index === 1) expect(underWay).toBeLessThanOrEqual(1);
      else expect({ committed, underWay }).toEqual({ committed: inside.acknowledged.length, underWay: 0 });
      expect(inside.journalsReplayed).toBe(0);
      redo.push(inside.redoBytes);
      tell(
        `held ${holdMs} ms (${vms.map((vm) => `${vm.vm} ${vm.holdMs} ms`).join(', ')}), reply to thaw ${thawMs} ms, ` +
          `marked in ${markUs} us, ${flushedBytes} bytes flushed; ${before} acknowledged before, redo ${inside.redoBytes} bytes`,
      );
    }
    const crashRedo: number[] = [];
    const journalsReplayed: number[] = [];
    const sample = crashes.filter(({ attributes }) => attributes['application'] === undefined).slice(0, 3);
    for (const [index, { id }] of sample.entries()) {
      const inside = await lookInto(sites, `crash-${index}`, { db: id });
      journalsReplayed.push(inside.journalsReplayed);
      crashRedo.push(inside.redoBytes);
    }
    // One of them may have been made while nothing was in the journals: within a hold, or just after it.
    expect(Math.max(...journalsReplayed)).toBeGreaterThan(0);
    tell(
      `redo: application ${redo.join(', ')} bytes; crash ${crashRedo.join(', ')} bytes, median ${median(crashRedo)}`,
    );
    expect(Math.max(...redo)).toBeLessThan(1024 * 1024);
  }, 600_000);

  test('the agent is killed while a guest is frozen: the guest releases itself, the agent ends the rest when it is back', async () => {
    const { here, source } = sites;
    const { virsh } = here;
    await inGuest('db', 'touch /run/slow');
    const asked = take().catch((error: unknown) => error);
    await waitFor('the client is frozen', async () => (await frozenState(virsh, 'client')) === 'frozen', {
      timeoutMs: 60_000,
      everyMs: 50,
    });
    const killedMs = performance.now();
    await source.kill();
    const stood = await writeCount(virsh, 'client', 'vdb');
    await waitFor('the client writes again', async () => (await writeCount(virsh, 'client', 'vdb')) > stood + 2, {
      timeoutMs: (holdSecondsMax + 5) * 1000 + 15_000,
    });
    tell(`kill -9 of the agent: the guest had released itself after ${seconds(performance.now() - killedMs)} s`);
    await asked;
    await inGuest('db', 'rm /run/slow');
    await source.start();
    await waitFor('the guest agent knows', async () => (await frozenState(virsh, 'client')) === 'thawed', {
      timeoutMs: 30_000,
    });
    await waitFor('nothing is left', () => readdirSync(join(source.dataDirectory, 'holds')).length === 0);
    expect(await inGuest('client', 'cat /proc/net/unix')).not.toContain('tidemark-deadman');
    await sites.waitProtecting();
    expect((await take()).kind).toBe('application');
  }, 300_000);

  test('the guest agent is killed while frozen: released all the same, the point is crash and says why', async () => {
    const { here, source } = sites;
    await inGuest('db', 'touch /run/slow');
    await inGuest(
      'client',
      `(until [ -e /run/qga.state.isfrozen ]; do sleep 0.2; done
        for i in $(seq 50); do kill -KILL $(pidof qemu-ga); sleep 0.2; done) >/dev/null 2>&1 &`,
    );
    const sinceMs = performance.now();
    const checkpoint = await take('guest-agent-killed');
    tell(`kill -9 of the guest agent: ${seconds(performance.now() - sinceMs)} s`);
    const { reasons } = holdOf(checkpoint);
    expect({ kind: checkpoint.kind, some: reasons.length > 0 }).toEqual({ kind: 'crash', some: true });
    tell(reasons.map(({ vm, step, reason: why }) => `${vm} ${step}: ${why}`).join('; '));
    await waitFor('it is thawed', async () => (await frozenState(here.virsh, 'client')) === 'thawed', {
      timeoutMs: 60_000,
    });
    const { alerts } = await source.client.group(group);
    expect(alerts.map(({ code }) => code)).toContain('hook-failed');
    await inGuest('db', 'rm /run/slow');
    await waitApplication(here.virsh);
    expect((await take()).kind).toBe('application');
    expect((await source.client.group(group)).alerts.map(({ code }) => code)).not.toContain('hook-failed');
  }, 300_000);

  test('a drill from the latest application checkpoint: both tiers match', async () => {
    const done = await sites.run('drill', 'drill', { at: { by: 'latest-application' }, keepMinutes: 10 });
    const { missing, acknowledged } = await checkApplication(sites.there.virsh, pairOf(done));
    expect({ missing, some: acknowledged > 0 }).toEqual({ missing: [], some: true });
    await sites.run('drill-stop', 'drill-stop', { drill: 'drill' });
  }, 300_000);

  test('each VM at an agent of its own: held together by the target, or nobody is', async () => {
    const { here, lab, target, source } = sites;
    const second = await splitSites(sites);
    const log = await CommitLog.start(lab.processes, here.virsh, { from: 1.5 * firstNumber });
    const taken = [
      await target.client.createCheckpoint(jointGroup, { label: 'at-target' }),
      await source.client.createCheckpoint(jointGroup, { label: 'at-source' }),
    ];
    const enough = log.commits.length + 20;
    await waitFor('commits after it', () => log.commits.length > enough, { timeoutMs: 60_000 });
    await log.stop();
    for (const [index, checkpoint] of taken.entries()) {
      const { reasons, agents, vms, heldFromMs, holdMs, markUs } = holdOf(checkpoint);
      expect({ kind: checkpoint.kind, reasons, agents }).toEqual({
        ...{ kind: 'application', reasons: [], agents: ['source', 'second'] },
      });
      expect(vms.map(({ vm }) => vm).sort()).toEqual(['client', 'db']);
      const inside = await lookInto(sites, `joint-${index}`, { db: checkpoint.id, of: jointGroup });
      const present = new Set(inside.present);
      const missing = log.commits.filter((each) => each.acknowledgedMs < heldFromMs && !present.has(each.number));
      const tooLate = log.commits.filter((each) => each.sentMs > heldFromMs + holdMs && present.has(each.number));
      const committed = inside.present.filter((number) => number < firstNumber).length;
      expect({ missing, tooLate, committed, journals: inside.journalsReplayed }).toEqual({
        ...{ missing: [], tooLate: [], committed: inside.acknowledged.length, journals: 0 },
      });
      tell(`two agents: held ${holdMs} ms, marked in ${markUs} us, redo ${inside.redoBytes} bytes`);
    }
    await inGuest('db', 'touch /run/slow');
    const asked = target.client.createCheckpoint(jointGroup, { kind: 'application' }).catch((error: unknown) => error);
    await waitFor('the client is frozen', async () => (await frozenState(here.virsh, 'client')) === 'frozen', {
      timeoutMs: 60_000,
      everyMs: 50,
    });
    await second.kill();
    const answer = await asked;
    tell(`an agent killed while it held: ${answer instanceof Error ? answer.message : (answer as Checkpoint).kind}`);
    expect(answer).not.toMatchObject({ kind: 'application' });
    await inGuest('db', 'rm /run/slow');
    await second.start();
    await waitFor('the guest agent knows', async () => (await frozenState(here.virsh, 'client')) === 'thawed', {
      timeoutMs: 30_000,
    });
    await waitFor(
      'held together again',
      async () => (await target.client.createCheckpoint(jointGroup, { kind: 'application' })).kind === 'application',
      { timeoutMs: 120_000, everyMs: 1000 },
    );
  }, 600_000);
});
