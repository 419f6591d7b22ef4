/** A journal cut over byte arrays, and a plain model of disks, for tests of the replica and of views. */
import type { JournalCut, Piece } from '../../agent/src/journal/types.js';
import type { Random } from '../../agent/src/core/random.js';
import { SimWorld } from '../sim/world/sim-world.js';
import type { SimHost, SimProcess } from '../sim/world/sim-host.js';

export const key = new Uint8Array(32).fill(7);
const unit = 512;

export function intBelow(random: Random, end: number): number {
  return Math.floor(random.float() * end);
}

/** What writes up to a cut left: bytes, and for each 512-byte unit which source holds them. */
export class CutModel {
  readonly disks = new Map<number, { bytes: Buffer; source: Uint8Array }>();
  released = 0;

  disk(index: number, sizeBytes: number): { bytes: Buffer; source: Uint8Array } {
    const known = this.disks.get(index) ?? { bytes: Buffer.alloc(sizeBytes), source: new Uint8Array(sizeBytes / unit) };
    this.disks.set(index, known);
    return known;
  }

  write(index: number, sizeBytes: number, offset: number, bytes: Uint8Array | number): void {
    const disk = this.disk(index, sizeBytes);
    const length = typeof bytes === 'number' ? bytes : bytes.length;
    if (typeof bytes === 'number') disk.bytes.fill(0, offset, offset + length);
    else disk.bytes.set(bytes, offset);
    disk.source.fill(typeof bytes === 'number' ? 2 : 1, offset / unit, (offset + length) / unit);
  }

  clone(): CutModel {
    const copy = new CutModel();
    for (const [index, { bytes, source }] of this.disks)
      copy.disks.set(index, { bytes: Buffer.from(bytes), source: Uint8Array.from(source) });
    return copy;
  }

  /** The disk when this cut is laid over `base`. */
  over(index: number, base: Uint8Array): Buffer {
    const result = Buffer.from(base);
    const disk = this.disks.get(index);
    disk?.source.forEach((source, at) => {
      if (source !== 0) disk.bytes.copy(result, at * unit, at * unit, (at + 1) * unit);
    });
    return result;
  }

  cut(): JournalCut {
    const { disks } = this;
    const names = ['base', 'data', 'zero'] as const;
    const pieces = (index: number, offset: number, length: number): Piece[] => {
      const disk = this.disks.get(index);
      const found: Piece[] = [];
      for (let at = offset; at < offset + length;) {
        const source = disk?.source[Math.floor(at / unit)] ?? 0;
        let end = at;
        while (end < offset + length && (disk?.source[Math.floor(end / unit)] ?? 0) === source)
          end = Math.min(offset + length, (Math.floor(end / unit) + 1) * unit);
        found.push({ offsetBytes: at, lengthBytes: end - at, source: names[source]!, locator: index });
        at = end;
      }
      return found;
    };
    return {
      vector: {},
      lookup: async (index, offset, length) => pieces(index, offset, length),
      read: async (piece, skip, target) => {
        const start = piece.offsetBytes + skip;
        target.set(this.disks.get(piece.locator as number)!.bytes.subarray(start, start + target.length));
      },
      pieces: async function* (index) {
        const length = disks.get(index)?.bytes.length ?? 0;
        for (const piece of pieces(index, 0, length)) if (piece.source !== 'base') yield piece;
      },
      release: () => void this.released++,
    };
  }
}

export interface Bench {
  readonly world: SimWorld;
  readonly host: SimHost;
  readonly process: SimProcess;
}

export function bench(seed: number): Bench {
  const world = new SimWorld(seed);
  const host = world.addHost('target');
  return { world, host, process: host.start() };
}
