/**
 * The life of a group under load: PostgreSQL and its client in two real VMs, a checkpoint every second. Each step counts
 * transactions: none that was acknowledged before the checkpoint is missing behind it, and none at all after a move.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import { SimRandom } from '../sim/world/sim-random.js';
import { acknowledgedOnDisk, checkExported } from '../support/exported-application.js';
import { guestExec } from '../support/guest-agent.js';
import {
  acknowledgedNumbers,
  checkApplication,
  checkLive,
  diskFile,
  presentNumbers,
  waitApplication,
  type Application,
} from '../support/two-tier.js';
import { drillAddress, group, pairOf, TwoTierSites } from '../support/two-tier-sites.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import { seconds, tell } from './tell.js';

const seed = Number(process.env['TIDEMARK_SEED'] ?? Date.now() % 1_000_000);
/** Checkpoints, all of them others, whose disks are exported and checked without a boot; two more are drilled. */
const sampleCount = Number(process.env['TIDEMARK_SAMPLES'] ?? 10);
const reason = whyNoVms();
const describeVms = reason === undefined ? describe : describe.skip;

describeVms(`two real VMs, protected as one group${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let sites: TwoTierSites;
  const random = new SimRandom(seed);
  /** Numbers that must be in the database from here on, whatever happens. */
  let kept: readonly number[] = [];

  beforeAll(async () => {
    sites = await TwoTierSites.boot();
    tell(`seed ${seed}; application after ${seconds(await waitApplication(sites.here.virsh))} s`);
    await sites.protect();
    tell(`first sync: ${seconds(await sites.waitProtecting())} s`);
  }, 900_000);
  afterAll(async () => sites?.[Symbol.asyncDispose](), 60_000);

  function expectWhole(what: string, { acknowledged, present, missing }: Application): void {
    tell(`${what}: ${acknowledged} acknowledged, ${present} in the database, ${missing.length} missing`);
    expect({ what, missing, some: acknowledged > 0 }).toEqual({ what, missing: [], some: true });
  }

  /** `beforeMs`: not what a recovered client has committed again. */
  async function expectKept(virsh: Virsh, beforeMs?: number): Promise<void> {
    const present = new Set(await presentNumbers(virsh, 'db', beforeMs));
    expect(kept.filter((number) => !present.has(number))).toEqual([]);
  }

  test('the link is cut, either agent is killed: checkpoints go on, the guests notice nothing', async () => {
    const { here, link, source, target } = sites;
    await waitFor('checkpoints', async () => (await sites.checkpoints()).length >= 4);
    link.cut();
    const cutMs = Date.now();
    await waitFor('commits go on without a link', () => waitApplication(here.virsh));
    await waitFor(
      'the target sees what it lacks',
      async () => ((await target.client.group(group)).rpoSeconds ?? 0) > 3,
    );
    link.restore();
    tell(`link cut for ${seconds(Date.now() - cutMs)} s, protected ${seconds(await sites.waitProtecting())} s later`);
    await target.kill();
    await waitApplication(here.virsh);
    await target.start();
    tell(`kill -9 of the target agent: protected again after ${seconds(await sites.waitProtecting())} s`);
    await source.kill();
    await waitApplication(here.virsh);
    await source.start();
    tell(`kill -9 of the source agent: protected again after ${seconds(await sites.waitProtecting())} s`);
    expectWhole('source', await checkLive(here.virsh));
  }, 300_000);

  test(
    'checkpoints chosen at random hold all that was acknowledged',
    async () => {
      const chosen = new Set<string>();
      await waitFor('checkpoints to choose from', async () => (await sites.checkpoints()).length >= 12);
      const newest = (await sites.checkpoints()).at(-1)!.sourceTimeMs;
      while (chosen.size < sampleCount) {
        const { id, sourceTimeMs } = random.pick((await sites.checkpoints()).filter((each) => !chosen.has(each.id)));
        chosen.add(id);
        const checked = await checkExported(sites, `sample-${chosen.size}`, { db: id });
        expectWhole(`checkpoint ${id}, ${seconds(newest - sourceTimeMs)} s before the first look`, checked);
      }
      expect(chosen.size).toBe(sampleCount);
    },
    60_000 + sampleCount * 60_000,
  );

  test('a client later than its database is found out', async () => {
    const checkpoints = await sites.checkpoints();
    const { acknowledged, missing } = await checkExported(sites, 'broken-order', {
      db: checkpoints[0]!.id,
      client: checkpoints.at(-1)!.id,
    });
    tell(`order broken on purpose: ${missing.length} of ${acknowledged} acknowledged are missing`);
    expect(missing.length).toBeGreaterThan(0);
  }, 120_000);

  test('two drills of both VMs at once, one with an address of its own; protection goes on', async () => {
    const { virsh } = sites.there;
    const checkpoints = await sites.checkpoints();
    const before = Date.now();
    const drill = async (id: string, { id: checkpoint }: Checkpoint): Promise<void> => {
      const done = await sites.run(id, 'drill', { at: { by: 'id', checkpoint }, keepMinutes: 30 });
      expect(done.result).toMatchObject({ isolation: { forward: 'none' } });
      const pair = pairOf(done);
      expectWhole(
        `${id}, first boot after ${String(done.result?.['firstBootMs'])} ms`,
        await checkApplication(virsh, pair),
      );
      const addresses = await guestExec(virsh, pair.client, ['ip', '-brief', 'address', 'show', 'dev', 'eth0']);
      expect(addresses).toContain(drillAddress);
      await waitApplication(virsh, pair);
      await sites.run(`${id}-stop`, 'drill-stop', { drill: id });
    };
    await Promise.all([drill('drill-1', random.pick(checkpoints)), drill('drill-2', random.pick(checkpoints))]);
    tell(`both drills: ${seconds(Date.now() - before)} s`);
    expect(await sites.there.list('--all')).toEqual([]);
    const { rpoSeconds } = await sites.target.client.group(group);
    expect(rpoSeconds).toBeLessThan(10);
    expectWhole('source', await checkLive(sites.here.virsh));
  }, 300_000);

  test('failover, the agent dies under it; rollback, and it goes on here', async () => {
    const { here, there, target } = sites;
    kept = await acknowledgedNumbers(here.virsh, 'client');
    const failover = await sites.run('failover', 'failover', { at: { by: 'latest' }, sourceMayBeAlive: true });
    await waitApplication(there.virsh);
    tell(`failover: first boot after ${String(failover.result?.['firstBootMs'])} ms`);
    expectWhole('failed over', await checkApplication(there.virsh));

    await target.kill();
    await waitFor('a guest waits for its disk', async () => (await there.list('--state-paused')).length > 0, {
      timeoutMs: 60_000,
    });
    await target.start();
    tell(`kill -9 of the agent below them: commits again after ${seconds(await waitApplication(there.virsh))} s`);
    for (const vm of ['db', 'client'])
      expect(await guestExec(there.virsh, vm, ['dmesg'])).not.toMatch(/I\/O error|Remounting filesystem|EXT4-fs error/);
    expectWhole('after the kill', await checkLive(there.virsh));

    // As an upgrade does it: the agent is asked to end, another process takes its place.
    const sinceMs = performance.now();
    await target.stop();
    await target.start();
    await waitApplication(there.virsh);
    tell(`the agent below them ends and starts: commits again after ${seconds(performance.now() - sinceMs)} s`);
    for (const vm of ['db', 'client'])
      expect(await guestExec(there.virsh, vm, ['dmesg'])).not.toMatch(/I\/O error|Remounting filesystem|EXT4-fs error/);
    expectWhole('after the upgrade', await checkLive(there.virsh));

    await sites.run('rollback', 'rollback', { keepHours: 1 });
    expect(await there.list('--all')).toEqual([]);
    tell(`rollback: application here again after ${seconds(await waitApplication(here.virsh))} s`);
    tell(`protected again after ${seconds(await sites.waitProtecting())} s`);
    await expectKept(here.virsh);
    expectWhole('source', await checkLive(here.virsh));
  }, 600_000);

  test('move: the guests shut down, nothing at all is lost; rolled back, they are started again', async () => {
    const { here, there, lab } = sites;
    const askedMs = Date.now();
    const { result } = await sites.run('move', 'move', { timeoutSeconds: 120 });
    const stopMs = Number(result?.['sourceStopMs']);
    tell(
      `move: guests off and all arrived after ${seconds(stopMs)} s, first boot ${String(result?.['firstBootMs'])} ms later`,
    );
    expect(await here.list()).toEqual([]);
    kept = await acknowledgedOnDisk(lab.processes, lab.path('vm-disks', 'client-vdb.raw'));
    expect(kept.length).toBeGreaterThan(0);
    expectWhole('moved', await checkApplication(there.virsh));
    await expectKept(there.virsh, askedMs + stopMs);
    await sites.run('move-back', 'rollback', { keepHours: 1 });
    tell(`rollback of the move: application here again after ${seconds(await waitApplication(here.virsh))} s`);
    tell(`protected again after ${seconds(await sites.waitProtecting())} s`);
    await expectKept(here.virsh);
  }, 600_000);

  test('rubbish over the database: recovered from before it, and committed', async () => {
    const { here, there } = sites;
    kept = await acknowledgedNumbers(here.virsh, 'client');
    await sites.waitProtecting(); // What is kept so far is in a checkpoint.
    const corruptedMs = Date.now();
    await guestExec(here.virsh, 'db', ['dd', 'if=/dev/urandom', 'of=/dev/vdb', 'bs=1M', 'count=64', 'oflag=direct']);
    await sites.waitProtecting(); // The rubbish, too.
    const askedMs = Date.now();
    await sites.run('undo', 'failover', { at: { by: 'time', timeMs: corruptedMs }, sourceMayBeAlive: true });
    expectWhole('before the rubbish', await checkApplication(there.virsh));
    await expectKept(there.virsh, askedMs);
    await waitApplication(there.virsh);
    kept = await acknowledgedNumbers(there.virsh, 'client');
    const sinceMs = performance.now();
    await sites.run('commit', 'commit', {});
    tell(`commit: ${seconds(performance.now() - sinceMs)} s`);
    await waitApplication(there.virsh);
    await expectKept(there.virsh);
    expectWhole('committed', await checkLive(there.virsh));
    expect((await sites.target.client.group(group)).state).toBe('committed');
  }, 600_000);

  test('reverse, with the sender killed; then a move home: nothing is lost', async () => {
    const { here, there, lab, source, target } = sites;
    kept = await acknowledgedNumbers(there.virsh, 'client');
    // The VMs here are isolated and still run, with the rubbish: without `discardSource` they are a split.
    await expect(sites.run('too-early', 'reverse', {})).rejects.toThrow('split');
    let sinceMs = performance.now();
    await sites.run('reverse', 'reverse', { discardSource: true });
    tell(`reverse: ${seconds(performance.now() - sinceMs)} s`);
    tell(`protected back after ${seconds(await sites.waitProtecting(source))} s more`);
    expect(await here.list()).toEqual([]);
    await expectKept(there.virsh);
    await target.kill();
    await waitApplication(there.virsh);
    await target.start();
    tell(`kill -9 of the agent that sends now: protected again after ${seconds(await sites.waitProtecting(source))} s`);
    const clientDisk = await diskFile(there.virsh, 'client', 'vdb');
    const askedMs = Date.now();
    const { result } = await sites.run('home', 'move', { timeoutSeconds: 120 }, { at: source });
    const stopMs = Number(result?.['sourceStopMs']);
    tell(`move home: guests off after ${seconds(stopMs)} s, first boot ${String(result?.['firstBootMs'])} ms later`);
    expect(await there.list()).toEqual([]);
    kept = await acknowledgedOnDisk(lab.processes, clientDisk);
    expectWhole('at home', await checkApplication(here.virsh));
    await expectKept(here.virsh, askedMs + stopMs);
    sinceMs = performance.now();
    await sites.run('settle', 'commit', {}, { at: source });
    tell(`commit at home: ${seconds(performance.now() - sinceMs)} s`);
    await waitApplication(here.virsh);
    await expectKept(here.virsh, askedMs + stopMs);
    expectWhole('committed at home', await checkLive(here.virsh));
  }, 900_000);
});
