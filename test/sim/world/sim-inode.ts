/**
 * The content of one simulated file: what reads see, what is on the platter, and the changes between the two in the
 * order they were made. A crash decides over each change that was not synced, sector by sector.
 */
import type { SimRandom } from './sim-random.js';
import { SparseBytes } from './sparse-bytes.js';

export const sectorBytes = 512;

type Change =
  | { readonly serial: number; readonly positionBytes: number; readonly bytes: Uint8Array }
  | { readonly serial: number; readonly truncateBytes: number };

/** What one crash or failed sync does to the unsynced changes of a file. */
type Fate = 'lost' | 'kept' | 'prefix' | 'sectors';
const fates: readonly Fate[] = ['lost', 'kept', 'prefix', 'sectors', 'sectors'];

export class SimInode {
  #current = new SparseBytes();
  #durable = new SparseBytes();
  #unsynced: Change[] = [];
  #serial = 0;
  /** True after a failed sync: the cache may show what the platter does not hold. */
  #cacheLies = false;
  /** Open handles; a nameless file lives until the last is closed. */
  openCount = 0;
  linkCount = 0;

  get lengthBytes(): number {
    return this.#current.lengthBytes;
  }

  /** Space taken: the larger of the two, as an overwrite in place needs no more. */
  get allocatedBytes(): number {
    return Math.max(this.#current.allocatedBytes, this.#durable.allocatedBytes);
  }

  /** Every change so far has a serial below this. */
  get serial(): number {
    return this.#serial;
  }

  growthBytes(positionBytes: number, lengthBytes: number): number {
    return this.#current.growthBytes(positionBytes, lengthBytes);
  }

  read(target: Uint8Array, positionBytes: number): number {
    return this.#current.read(target, positionBytes);
  }

  /** Takes over `bytes`. */
  write(bytes: Uint8Array, positionBytes: number): void {
    if (bytes.length === 0) return;
    this.#current.write(bytes, positionBytes);
    this.#unsynced.push({ serial: this.#serial++, positionBytes, bytes });
  }

  truncate(truncateBytes: number): void {
    this.#current.truncate(truncateBytes);
    this.#unsynced.push({ serial: this.#serial++, truncateBytes });
  }

  /** A sync that was asked for when `serial` was this succeeded. */
  syncBelow(serial: number): void {
    let count = 0;
    for (; count < this.#unsynced.length && this.#unsynced[count]!.serial < serial; count++)
      this.#apply(this.#unsynced[count]!);
    this.#unsynced.splice(0, count);
  }

  /** A sync failed: the kernel calls the pages clean, whatever reached the platter, and no later sync writes them. */
  failSync(random: SimRandom): void {
    this.#settleUnsynced(random);
    this.#cacheLies = true;
    if (random.chance(0.5)) this.#dropCache();
  }

  /** The machine lost power: what is on the platter is what there is. */
  crash(random: SimRandom): void {
    this.openCount = 0;
    if (this.#unsynced.length === 0 && !this.#cacheLies) return;
    this.#settleUnsynced(random);
    this.#dropCache();
  }

  /** Turns one bit on the platter and in the cache. */
  flipBit(offsetBytes: number, bit: number): void {
    for (const content of [this.#current, this.#durable]) {
      const byte = new Uint8Array(1);
      if (content.read(byte, offsetBytes) === 0) continue;
      byte[0]! ^= 1 << bit;
      content.write(byte, offsetBytes);
    }
  }

  #dropCache(): void {
    this.#current = this.#durable.clone();
    this.#cacheLies = false;
  }

  #settleUnsynced(random: SimRandom): void {
    const fate = random.pick(fates);
    const keepCount = fate === 'prefix' ? random.int(this.#unsynced.length + 1) : Infinity;
    const keepChance = random.float();
    if (fate !== 'lost') {
      for (const [index, change] of this.#unsynced.entries()) {
        if (fate === 'kept' || (fate === 'prefix' && index < keepCount)) this.#apply(change);
        else if (fate === 'sectors' || index === keepCount) this.#applyTorn(change, random, keepChance);
      }
    }
    // The size may have reached the platter before the bytes: they then read as zeros.
    if (this.#durable.lengthBytes < this.#current.lengthBytes && random.chance(0.25)) {
      this.#durable.truncate(this.#current.lengthBytes);
    }
    this.#unsynced = [];
  }

  #apply(change: Change): void {
    if ('bytes' in change) this.#durable.write(change.bytes, change.positionBytes);
    else this.#durable.truncate(change.truncateBytes);
  }

  /** Keeps each sector, whole, with `keepChance`. */
  #applyTorn(change: Change, random: SimRandom, keepChance: number): void {
    if (!('bytes' in change)) {
      if (random.chance(keepChance)) this.#apply(change);
      return;
    }
    const { bytes, positionBytes } = change;
    let start = 0;
    while (start < bytes.length) {
      const end = Math.min(bytes.length, start + sectorBytes - ((positionBytes + start) % sectorBytes));
      if (random.chance(keepChance)) this.#durable.write(bytes.subarray(start, end), positionBytes + start);
      start = end;
    }
  }
}
