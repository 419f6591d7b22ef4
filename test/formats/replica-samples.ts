/** Makes the frozen samples of the replica and scratch formats. */
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { Replica } from '../../agent/src/replica/replica.js';
import { Scratch } from '../../agent/src/view/scratch.js';
import { bench, key } from '../unit/replica-fakes.js';

export const sampleNames = ['plain', 'encrypted'] as const;
export type SampleName = (typeof sampleNames)[number];
const sizeBytes = 300_000;

function pattern(length: number, seed: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, at) => (at * seed + (at >> 8)) & 255));
}

/** What a reader of the samples must find: the disk, blocks 3 and 4 of the scratch, entries of blocks 5 and 9. */
export function sampleBytes(): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  disk.set(pattern(100_000, 3), 0);
  disk.set(pattern(5000, 5), 290_000);
  return Buffer.concat([disk, pattern(8192, 7), Buffer.from([1, 0])]);
}

/** Writes new frozen files; only for a new format version. */
export async function freeze(folder: string): Promise<void> {
  for (const kind of sampleNames) {
    const { world, host, process } = bench(42);
    const { storage, clock, random } = process;
    const secret = kind === 'encrypted' ? key : undefined;
    await world.drive(
      (async () => {
        const replica = await Replica.open({ storage, clock, random, directory: 'r', key: secret }, []);
        const disk = await replica.create(0, 'sample', sizeBytes);
        await disk.applyBase(0, pattern(100_000, 3));
        await disk.applyBase(290_000, pattern(5000, 5));
        await disk.flushBase();
        const scratch = await Scratch.create({ storage, random, directory: 's', key: secret, limitBytes: 1e6 });
        const [run] = await scratch.allocate(0, 3, 2);
        await scratch.writeSlots(run!.firstSlot, [pattern(8192, 7)]);
        scratch.mapSlots(0, 3, run!);
        await scratch.flush();
        await scratch.mapZeros(0, 5, 2);
        await scratch.flush();
      })(),
    );
    for (const name of ['0.raw', '0.digests'])
      writeFileSync(`${folder}/replica/${kind}-${name}.v1.gz`, gzipSync(host.disk.peek(`r/${name}`)));
    for (const name of ['scratch.data', 'scratch.map'])
      writeFileSync(`${folder}/scratch/${kind}-${name}.v1.gz`, gzipSync(host.disk.peek(`s/${name}`)));
  }
}
