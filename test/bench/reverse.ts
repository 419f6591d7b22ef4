/**
 * What a way back costs on the wire: the old source disk is the seed of the group that protects the recovered VM back,
 * and 1 % of the disk has changed since. Beside it a first sync of the same disk to nothing.
 */
import { copyFileSync, closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { startCountingRelay } from '../support/counting-relay.js';
import { Laboratory } from '../support/laboratory.js';
import { waitFor } from '../support/wait.js';
import type { Benchmark } from './context.js';
import { writeRandom } from './dd.js';
import type { Goal, Table } from './report.js';
import { MiB, number, series, spread } from './statistics.js';

const changedShare = 0.01;
const shapes = [
  { name: '64 KiB pieces', changeBytes: 64 * 1024 },
  { name: '4 KiB pieces', changeBytes: 4096 },
] as const;

interface Sync {
  readonly wireBytes: number;
  readonly seconds: number;
}

export const reverse: Benchmark = {
  name: 'reverse',
  async run(context) {
    const { diskBytes, rounds } = context.plan.reverse;
    const first: Sync[] = [];
    const back = new Map<string, Sync[]>(shapes.map(({ name }) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      await using lab = await Laboratory.open();
      const old = lab.path('old.raw');
      writeRandom(old, diskBytes);
      first.push(await sync(lab, 'first', old, diskBytes, undefined));
      for (const { name, changeBytes } of shapes) {
        const now = lab.path('now.raw');
        copyFileSync(old, now);
        change(now, diskBytes, changeBytes);
        back.get(name)!.push(await sync(lab, `back-${changeBytes}`, now, diskBytes, old));
        rmSync(now);
      }
      context.say(
        `first sync ${number(first.at(-1)!.wireBytes / MiB)} MiB; back ` +
          shapes.map(({ name }) => `${number(back.get(name)!.at(-1)!.wireBytes / MiB)} MiB (${name})`).join(', '),
      );
    }
    const share = (name: string): number[] =>
      back.get(name)!.map(({ wireBytes }, round) => (wireBytes / first[round]!.wireBytes) * 100);
    const goals: Goal[] = shapes.map(({ name }) => ({
      name: `reverse, 1 % changed in ${name} ÷ first sync`,
      measured: series(share(name)),
      bound: 5,
      direction: 'at most',
      unit: '%',
      hint: 'Digests are of 64 KiB: a smaller change sends all of its 64 KiB.',
    }));
    const row = (name: string, syncs: readonly Sync[]): string[] => [
      name,
      spread(series(syncs.map(({ wireBytes }) => wireBytes / MiB))),
      spread(series(syncs.map(({ seconds }) => seconds))),
    ];
    const table: Table = {
      title: 'Bytes on the wire, both ways',
      head: ['sync', 'MiB', 'seconds'],
      rows: [row('first', first), ...shapes.map(({ name }) => row(`back, ${name}`, back.get(name)!))],
    };
    return {
      title: 'Reverse',
      goals,
      tables: [table],
      notes: [
        `A disk of ${diskBytes / MiB} MiB full of incompressible data, ${rounds} rounds; the changes are spread evenly. TLS and ` +
          'all messages until the first complete checkpoint are counted. By a seed, as a reverse makes its group.',
      ],
    };
  },
};

/** 1 % of the disk, in pieces of that size at even distances. */
function change(file: string, diskBytes: number, changeBytes: number): void {
  const count = Math.round((diskBytes * changedShare) / changeBytes);
  const fd = openSync(file, 'r+');
  for (let index = 0; index < count; index++) {
    const offsetBytes = Math.floor((index * diskBytes) / count / changeBytes) * changeBytes;
    writeSync(fd, randomBytes(changeBytes), 0, changeBytes, offsetBytes);
  }
  closeSync(fd);
}

/** A group of its own, from nothing (or a seed) to the first complete checkpoint. */
async function sync(
  lab: Laboratory,
  name: string,
  file: string,
  sizeBytes: number,
  seed: string | undefined,
): Promise<Sync> {
  const stream = `source-${name}`;
  const disk = { name: 'data', sizeBytes, stream, ...(seed === undefined ? {} : { seed }) };
  const target = await lab.startAgent(`target-${name}`, {
    peers: [{ name: stream }],
    targetGroups: [{ name: 'shop', streams: [stream], disks: [disk], checkpointIntervalSeconds: 1 }],
  });
  await using wire = await startCountingRelay(target.addresses.stream);
  const startMs = performance.now();
  const source = await lab.startAgent(stream, {
    peers: [{ name: target.name, address: wire.address }],
    sourceGroups: [
      {
        name: 'shop',
        targets: [{ peer: target.name }],
        checkpointIntervalSeconds: 1,
        disks: [{ kind: 'in-path', name: 'data', sizeBytes, file }],
      },
    ],
  });
  await waitFor(
    `${name} is protected`,
    async () => {
      for (const agent of [source, target]) agent.process.failIfExited();
      const { state, newestCheckpoint } = await target.client.group('shop');
      return state === 'protecting' && newestCheckpoint !== null;
    },
    { timeoutMs: 300_000 },
  );
  const done = { wireBytes: wire.bytes(), seconds: (performance.now() - startMs) / 1000 };
  await source.stop();
  await target.stop();
  return done;
}
