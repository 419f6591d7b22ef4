/** The disk of a guest: memory that outlives every agent, with time and failures of its own. */
import type { BlockDevice } from '../../agent/src/nbd/block-device.js';
import type { SimProcess } from './world/sim-host.js';
import type { SimWorld } from './world/sim-world.js';

export class GuestDisk {
  bytes: Uint8Array;

  constructor(
    private readonly world: SimWorld,
    sizeBytes: number,
  ) {
    this.bytes = new Uint8Array(sizeBytes);
  }

  grow(sizeBytes: number): void {
    const grown = new Uint8Array(sizeBytes);
    grown.set(this.bytes);
    this.bytes = grown;
  }

  /** As an agent's process sees it; after its death nothing completes, and what was under way is done or not. */
  attach(process: SimProcess): BlockDevice {
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- read by a getter of the device.
    const disk = this;
    const { world } = this;
    const later = <T>(effect: () => T, slowMs = 0.2): Promise<T> =>
      new Promise((resolve) => {
        world.scheduler.after(0.02 + world.random.float() * slowMs, () => {
          if (!process.alive && world.random.chance(0.5)) return;
          const result = effect();
          if (process.alive) resolve(result);
        });
      });
    return {
      get sizeBytes() {
        return disk.bytes.length;
      },
      readOnly: false,
      minimumBlockBytes: 1,
      // The bytes are those of one moment of the read, which takes long enough for writes to overtake it.
      read: async (target, offsetBytes) => {
        await later(() => target.set(disk.bytes.subarray(offsetBytes, offsetBytes + target.length)), 6);
        await later(() => undefined, 6);
      },
      write: (source, offsetBytes) => {
        const copy = source.slice();
        return later(() => disk.bytes.set(copy, offsetBytes));
      },
      zero: (offsetBytes, lengthBytes) => later(() => void disk.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes)),
      trim: (offsetBytes, lengthBytes) => later(() => void disk.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes)),
      flush: () => later(() => undefined),
      close: () => Promise.resolve(),
    };
  }
}
