/**
 * kill -9 of the real agents at random moments under write load, then every listed checkpoint's bytes are compared with
 * a plain model of acknowledged writes. TIDEMARK_SEED replays the choices (not the timing of the machine).
 */
import { describe, expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair, type PairOptions } from '../support/pair.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { SimRandom } from '../sim/world/sim-random.js';
import { StampedDisk, WallCounter } from './stamped-disk.js';
import { checkCheckpoint, checkImages, listCheckpoints, readDisk } from './verify-checkpoints.js';

const MiB = 1024 * 1024;
const roundCount = Number(process.env['TIDEMARK_KILL_ROUNDS'] ?? 26);
const seed = Number(process.env['TIDEMARK_SEED'] ?? Date.now() % 1_000_000);

interface Case {
  readonly name: string;
  readonly history?: PairOptions['history'];
  readonly thins: boolean;
  readonly sourceSettings?: PairOptions['sourceSettings'];
  /** Slower than the guest writes, so that the source retreats to spool, folding and bitmap. */
  readonly linkBytesPerSecond?: number;
  readonly roundCount: number;
}

const cases: readonly Case[] = [
  { name: 'all history kept', thins: false, roundCount },
  {
    name: 'history thinned and promoted all the time',
    history: { windowSeconds: 60, tiers: [{ olderThanSeconds: 8, everySeconds: 4 }] },
    thins: true,
    roundCount,
  },
  {
    name: 'a link that is too slow',
    thins: false,
    sourceSettings: { buffers: { bufferBytes: 8 * MiB, spoolBytes: 16 * MiB } },
    linkBytesPerSecond: 1_000_000,
    roundCount: Math.ceil(roundCount / 2),
  },
];

describe.each(cases)('kill -9, $name', ({ history, thins, sourceSettings, linkBytesPerSecond, roundCount }) => {
  test(`${roundCount} rounds, seed ${seed}`, async () => {
    await using lab = await Laboratory.open();
    const random = new SimRandom(seed);
    const counter = new WallCounter();
    const sizes = [4 * MiB, 2 * MiB];
    const pair = await startPair(lab, {
      checkpointIntervalSeconds: 1,
      disks: sizes.map((sizeBytes, index) => ({
        name: `disk${index}`,
        sizeBytes,
        kind: 'in-path',
        file: makeSparseFile(lab.path(`disk${index}.raw`), sizeBytes),
      })),
      ...(history === undefined ? {} : { history }),
      ...(sourceSettings === undefined ? {} : { sourceSettings }),
      linkProxy: linkBytesPerSecond !== undefined,
    });
    await pair.waitProtecting();
    pair.link?.shape(linkBytesPerSecond ?? null);
    const disks: StampedDisk[] = [];
    for (const [index, sizeBytes] of sizes.entries()) {
      const name = `disk${index}`;
      disks.push(
        new StampedDisk(name, sizeBytes, await pair.exportUri(name), new SimRandom(seed * 7 + index), counter),
      );
    }
    for (const disk of disks) disk.start();
    const stages = new Set<string>();
    const verified = new Set<string>();
    const verify = async (): Promise<void> => {
      for (const checkpoint of await listCheckpoints(pair.target.client, pair.group)) {
        if (verified.has(checkpoint.id)) continue;
        const wrong = await checkCheckpoint(pair.target.client, pair.group, checkpoint, disks).catch(
          (error: { code?: string }) => {
            // Thinned between the list and the view.
            if (thins && /^checkpoint-(expired|unknown)$/.test(error.code ?? '')) return undefined;
            throw error;
          },
        );
        if (wrong !== undefined) throw new Error(`seed ${seed}: ${wrong}`);
        verified.add(checkpoint.id);
      }
    };
    try {
      for (let round = 0; round < roundCount; round++) {
        // How slow it is depends on what compresses; cut, it is slow for sure.
        if (round % 3 === 1) pair.link?.cut();
        else pair.link?.restore();
        stages.add((await pair.sourceStatus()).links[0]?.stage ?? '');
        await killRound(pair, random, thins, linkBytesPerSecond === undefined);
        if (round % 13 === 12) await verify();
      }
    } finally {
      for (const disk of disks) await disk.stop();
    }
    pair.link?.shape(null);
    await pair.waitDrained();
    // Refused while a disk is being synced.
    const last = await waitFor('a last checkpoint', async () => {
      const made = await pair.source.client.createCheckpoint(pair.group, { kind: 'tagged', label: 'last' });
      return made.complete ? made : undefined;
    });
    // What thinning left is checked again whole, the rest of them for the first time.
    if (thins) verified.clear();
    await verify();
    expect(verified.has(last.id)).toBe(true);
    await expectOracleToFail(pair, disks, last);
    expect(disks.every(({ brokenCount }) => brokenCount > roundCount / 4)).toBe(true);
    const acknowledged = disks.reduce((sum, disk) => sum + disk.acknowledgedCount, 0);
    console.log(
      `seed ${seed}: ${roundCount} rounds, ${acknowledged} acknowledged writes, ${verified.size} checkpoints verified, ` +
        `stages ${[...stages].join(' ')}`,
    );
    expect(verified.size).toBeGreaterThan(thins || linkBytesPerSecond !== undefined ? 5 : roundCount);
    if (linkBytesPerSecond !== undefined) expect(stages.size).toBeGreaterThan(1);
    await pair.stop();
  }, 240_000);
});

/** The comparison itself is no rubber stamp: one sector taken from elsewhere, or an older checkpoint, is noticed. */
async function expectOracleToFail(pair: Pair, disks: readonly StampedDisk[], last: Checkpoint): Promise<void> {
  const { client } = pair.target;
  const view = await client.openView(pair.group, { id: 'oracle', at: { by: 'id', checkpoint: last.id } });
  const images = new Map<StampedDisk, Buffer>();
  for (const disk of disks)
    images.set(disk, await readDisk(view.disks.find(({ name }) => name === disk.name)!.uri, disk.sizeBytes));
  await client.closeView(pair.group, 'oracle');
  const markUs = last.sourceTimeMs * 1000;
  expect(checkImages('as it is', images, markUs)).toBeUndefined();
  expect(checkImages('an hour older', images, markUs - 3_600_000_000)).toBeDefined();
  const bytes = images.get(disks[0]!)!;
  bytes.copyWithin(0, MiB, MiB + 512);
  expect(checkImages('one sector wrong', images, markUs)).toBeDefined();
}

/** Kills one or both at a random moment, starts them again in any order, and in some rounds waits until all is well. */
async function killRound(pair: Pair, random: SimRandom, thins: boolean, mayWait: boolean): Promise<void> {
  const { source, target } = pair;
  await sleep(random.float() * 1500);
  const listed = (await listCheckpoints(target.client, pair.group)).filter(({ complete }) => complete);
  const choice = random.float();
  const victims: AgentHandle[] = choice < 0.4 ? [source] : choice < 0.8 ? [target] : [source, target];
  await Promise.all(victims.map((agent) => agent.kill()));
  if (random.float() < 0.3) await sleep(random.float() * 1000);
  if (random.float() < 0.5) victims.reverse();
  for (const agent of victims) {
    const started = agent.start();
    // A second kill while it is starting.
    if (random.float() < 0.2) {
      started.catch(() => undefined);
      await sleep(random.float() * 400);
      await agent.kill();
      await started.catch(() => undefined);
      await agent.start();
    }
    await started.catch(() => undefined);
  }
  if (!thins) {
    const now = new Set((await listCheckpoints(target.client, pair.group)).map(({ id }) => id));
    const lost = listed.filter(({ id }) => !now.has(id));
    if (lost.length > 0) throw new Error(`checkpoints lost by a kill: ${lost.map(({ id }) => id).join(' ')}`);
  }
  if (!mayWait || random.float() < 0.4) return;
  const before = listed[0]?.id ?? '';
  await waitFor(
    'a new complete checkpoint',
    async () => {
      for (const agent of [source, target]) agent.process.failIfExited();
      const { newestCheckpoint } = await target.client.group(pair.group);
      return newestCheckpoint !== null && newestCheckpoint.id > before;
    },
    { timeoutMs: 20_000, everyMs: 50 },
  );
}
