import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { SimRandom } from '../sim/world/sim-random.js';
import { acknowledgedCount, checkApplication, checkLive, waitApplication } from '../support/two-tier.js';
import { waitFor } from '../support/wait.js';
import { pairOf, seconds, tell, TwoTierSites } from './two-tier-sites.js';

const seed = Number(process.env['TIDEMARK_SEED'] ?? Date.now() % 1_000_000);
/** A drill takes half a minute on an idle machine with two cores. */
const sampleCount = Number(process.env['TIDEMARK_SAMPLES'] ?? 2);

describe('PostgreSQL and its client in two real VMs, protected as one group', () => {
  let sites: TwoTierSites;
  beforeAll(async () => (sites = await TwoTierSites.start()), 900_000);
  afterAll(async () => sites?.[Symbol.asyncDispose](), 60_000);

  test(
    'checkpoints chosen at random hold, in a drill, all that was acknowledged',
    async () => {
      const { virsh } = sites.there;
      await waitFor('checkpoints to choose from', async () => (await sites.checkpoints()).length >= 10);
      const random = new SimRandom(seed);
      tell(`seed ${seed}`);
      for (let sample = 0; sample < sampleCount; sample++) {
        const checkpoints = await sites.checkpoints();
        const { id, sourceTimeMs } = random.pick(checkpoints);
        const backMs = checkpoints.at(-1)!.sourceTimeMs - sourceTimeMs;
        const askedMs = performance.now();
        const drill = await sites.run(`drill-${sample}`, 'drill', {
          at: { by: 'id', checkpoint: id },
          keepMinutes: 30,
        });
        const pair = pairOf(drill);
        await waitApplication(virsh, pair);
        const answersMs = performance.now() - askedMs;
        const { acknowledged, present, missing } = await checkApplication(virsh, pair);
        tell(
          `drill ${seconds(backMs)} s back: first boot after ${seconds(drill.result?.['firstBootMs'] as number)} s, ` +
            `application answers after ${seconds(answersMs)} s; ${acknowledged} acknowledged, ${present} present, ${missing.length} missing`,
        );
        expect(missing).toEqual([]);
        expect(acknowledged).toBeGreaterThan(0);
        await sites.run(`stop-${sample}`, 'drill-stop', { drill: `drill-${sample}` });
      }
      expect(await sites.there.list('--all')).toEqual([]);
      expect((await checkLive(sites.here.virsh)).missing).toEqual([]);
    },
    60_000 + sampleCount * 180_000,
  );

  test('a client later than its database is found out', async () => {
    const [early] = await sites.checkpoints();
    const at = { by: 'id', checkpoint: early!.id };
    const drills = await Promise.all([
      sites.run('early', 'drill', { at, vms: ['db'], keepMinutes: 30 }),
      sites.run('late', 'drill', { at: { by: 'latest' }, vms: ['client'], keepMinutes: 30 }),
    ]);
    const { acknowledged, missing } = await checkApplication(sites.there.virsh, pairOf(...drills));
    tell(`order broken on purpose: ${missing.length} of ${acknowledged} acknowledged are missing`);
    expect(missing.length).toBeGreaterThan(0);
    for (const drill of ['early', 'late']) await sites.run(`stop-${drill}`, 'drill-stop', { drill });
  }, 300_000);

  test('failover, the application goes on there; rollback, and it goes on here, protected', async () => {
    const { here, there } = sites;
    const before = await acknowledgedCount(here.virsh, 'client');
    const askedMs = performance.now();
    const failover = await sites.run('failover', 'failover', { at: { by: 'latest' }, sourceMayBeAlive: true });
    await waitApplication(there.virsh);
    const answersMs = performance.now() - askedMs;
    const recovered = await checkApplication(there.virsh);
    tell(
      `failover: first boot after ${seconds(failover.result?.['firstBootMs'] as number)} s, application answers ` +
        `after ${seconds(answersMs)} s; ${before} acknowledged when asked, ${recovered.acknowledged} in the checkpoint, ` +
        `${recovered.missing.length} missing`,
    );
    expect(recovered.missing).toEqual([]);
    expect(recovered.acknowledged).toBeGreaterThan(0);
    const live = await checkLive(there.virsh);
    expect(live.acknowledged).toBeGreaterThan(recovered.acknowledged);
    expect(live.missing).toEqual([]);

    await sites.run('rollback', 'rollback', { keepHours: 1 });
    expect(await there.list('--all')).toEqual([]);
    tell(`rollback: application here again after ${seconds(await waitApplication(here.virsh))} s`);
    tell(`protected again after ${seconds(await sites.waitProtecting())} s`);
    const home = await checkLive(here.virsh);
    expect(home.acknowledged).toBeGreaterThan(before);
    expect(home.missing).toEqual([]);
  }, 600_000);
});
