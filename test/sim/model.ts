/**
 * The oracle: a plain model of what guests wrote and were told. Every write fills its 512-byte sectors with its own
 * number, so that any sector that is read later tells which write it came from. A counter orders all that happens.
 */
export const sectorBytes = 512;

export interface ModelWrite {
  /** Stamp in every sector; 0 in `zero` writes, whose sectors are zeros. */
  readonly id: number;
  readonly zero: boolean;
  /** When the guest issued it, and when it was acknowledged (Infinity: not yet, or never). */
  readonly issued: number;
  acknowledged: number;
}

/** Before anything: all zeros, acknowledged at the beginning of time. */
const origin: ModelWrite = { id: 0, zero: true, issued: 0, acknowledged: 0 };

interface InFlight {
  readonly write: ModelWrite;
  readonly first: number;
  readonly count: number;
}

export class DiskModel {
  /** Writes of each sector in the order they took effect. */
  private readonly history: ModelWrite[][];
  /** When it joined the group and left it, and its sizes from when on. */
  private readonly joined: number;
  private left = Infinity;
  private readonly sizes: { readonly since: number; readonly sizeBytes: number }[];
  /** By the stamp: many may stay for ever unacknowledged, after kills. */
  private readonly inFlight = new Map<number, Set<InFlight>>();

  constructor(
    readonly name: string,
    /** Of the source agent. */
    readonly agent: string,
    sizeBytes: number,
    private readonly counter: { now: number },
  ) {
    this.joined = ++counter.now;
    this.sizes = [{ since: this.joined, sizeBytes }];
    this.history = Array.from({ length: sizeBytes / sectorBytes }, () => [origin]);
  }

  get sizeBytes(): number {
    return this.history.length * sectorBytes;
  }

  /** What is new is zeros. */
  grow(sizeBytes: number): void {
    this.sizes.push({ since: ++this.counter.now, sizeBytes });
    while (this.sizeBytes < sizeBytes) this.history.push([origin]);
  }

  leave(): void {
    this.left = ++this.counter.now;
  }

  /** True when it was in the group at that moment. */
  isThere(at: number): boolean {
    return this.joined < at && at < this.left;
  }

  sizeAt(at: number): number {
    return this.sizes.findLast(({ since }) => since < at)?.sizeBytes ?? 0;
  }

  get sectorCount(): number {
    return this.history.length;
  }

  /** A guest issued a write; `settle` says how it ended. */
  issue(id: number, zero: boolean, offsetBytes: number, lengthBytes: number): { acknowledge(): void; dropped(): void } {
    const write: ModelWrite = { id: zero ? 0 : id, zero, issued: ++this.counter.now, acknowledged: Infinity };
    const entry = { write, first: offsetBytes / sectorBytes, count: lengthBytes / sectorBytes };
    const sameStamp = this.inFlight.get(write.id) ?? new Set<InFlight>();
    this.inFlight.set(write.id, sameStamp.add(entry));
    const settle = (): boolean => {
      const known = sameStamp.delete(entry);
      if (sameStamp.size === 0 && this.inFlight.get(write.id) === sameStamp) this.inFlight.delete(write.id);
      return known;
    };
    return {
      acknowledge: () => {
        if (!settle()) return;
        write.acknowledged = ++this.counter.now;
        for (let sector = entry.first; sector < entry.first + entry.count; sector++) this.history[sector]?.push(write);
      },
      dropped: () => void settle(),
    };
  }

  /** Newest acknowledged content, for a guest that reads its disk back. */
  newest(sector: number): ModelWrite {
    return this.history[sector]?.at(-1) ?? origin;
  }

  /** Greatest issue time among the writes that the bytes show. Zeros tell nothing. */
  newestIssueSeen(bytes: Uint8Array): number {
    let newest = 0;
    const words = wordsOf(bytes);
    for (let sector = 0; sector * sectorBytes < bytes.length; sector++) {
      const id = words[(sector * sectorBytes) / 4] as number;
      if (id === 0) continue;
      const seen = this.candidates(sector, id).at(-1);
      if (seen !== undefined) newest = Math.max(newest, seen.issued);
    }
    return newest;
  }

  /**
   * Checks a disk image of one moment: every write acknowledged at `marked` or before is in it (or a later one over it),
   * none issued after it is, and every sector is whole. Returns what is wrong, undefined when nothing is.
   */
  check(bytes: Uint8Array, acknowledgedBy: number, issuedBy: number): string | undefined {
    const words = wordsOf(bytes);
    const wordCount = sectorBytes / 4;
    for (let sector = 0; sector * sectorBytes < bytes.length; sector++) {
      const at = sector * wordCount;
      const id = words[at] as number;
      for (let word = 1; word < wordCount; word++) {
        if (words[at + word] !== id) return `${this.name} sector ${sector}: torn, ${id} and ${words[at + word]}`;
      }
      const list = this.history[sector] as ModelWrite[];
      let needed = list.length - 1;
      while (needed > 0 && (list[needed] as ModelWrite).acknowledged > acknowledgedBy) needed--;
      const fits = this.candidates(sector, id).some(
        (write) => write.issued <= issuedBy && (write.acknowledged === Infinity || list.indexOf(write) >= needed),
      );
      if (fits) continue;
      const wanted = list[needed] as ModelWrite;
      const seen = this.candidates(sector, id).at(-1);
      const what =
        seen === undefined
          ? 'a write that was never made there'
          : `issued ${seen.issued}, acknowledged ${seen.acknowledged}`;
      return (
        `${this.name} sector ${sector}: shows ${id} (${what}); the mark at ${acknowledgedBy} needs ${wanted.id} ` +
        `(issued ${wanted.issued}, acknowledged ${wanted.acknowledged}) or later, none issued after ${issuedBy}`
      );
    }
    return undefined;
  }

  private candidates(sector: number, id: number): ModelWrite[] {
    const list = (this.history[sector] as ModelWrite[]).filter((write) => write.id === id);
    for (const { write, first, count } of this.inFlight.get(id) ?? []) {
      if (sector >= first && sector < first + count) list.push(write);
    }
    return list;
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  if (bytes.byteOffset % 4 === 0) return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  return new Uint32Array(bytes.slice().buffer);
}

/** Sectors full of the write's number. */
export function stampedBytes(id: number, lengthBytes: number): Uint8Array {
  return new Uint8Array(new Uint32Array(lengthBytes / 4).fill(id).buffer);
}

/** All disks of a group, and the moments of its marks. */
export class GroupModel {
  readonly counter = { now: 0 };
  private readonly disks: DiskModel[] = [];
  /** Mark time by checkpoint id and source agent. */
  private readonly marks = new Map<string, Map<string, number>>();
  private nextId = 1;

  addDisk(name: string, agent: string, sizeBytes: number): DiskModel {
    const disk = new DiskModel(name, agent, sizeBytes, this.counter);
    this.disks.push(disk);
    return disk;
  }

  takeId(): number {
    return this.nextId++;
  }

  /** A source agent placed its mark now. */
  marked(checkpoint: string, agent: string): void {
    const times = this.marks.get(checkpoint) ?? new Map<string, number>();
    times.set(agent, ++this.counter.now);
    this.marks.set(checkpoint, times);
  }

  markOf(checkpoint: string, agent: string): number | undefined {
    return this.marks.get(checkpoint)?.get(agent);
  }

  /**
   * Checks the images of a checkpoint: each disk against its agent's mark, its size then, and all against each other: a
   * write that was acknowledged before another one, which is seen, was issued, must be seen too. A complete one has every
   * disk that the group had at the mark.
   */
  check(
    checkpoint: string,
    images: ReadonlyMap<string, { bytes: Uint8Array; agent: string }>,
    complete: boolean,
  ): string | undefined {
    const found = new Map<DiskModel, { bytes: Uint8Array; marked: number }>();
    for (const [name, { bytes, agent }] of images) {
      const marked = this.markOf(checkpoint, agent);
      if (marked === undefined) return `checkpoint ${checkpoint} is listed, but ${agent} never marked it`;
      const disk = this.disks.find((each) => each.name === name && each.agent === agent && each.isThere(marked));
      if (disk === undefined) return `checkpoint ${checkpoint} has ${name}, which was not in the group at ${marked}`;
      if (bytes.length !== disk.sizeAt(marked))
        return `checkpoint ${checkpoint}: ${name} has ${bytes.length} bytes instead of ${disk.sizeAt(marked)}`;
      found.set(disk, { bytes, marked });
    }
    for (const disk of complete ? this.disks : []) {
      const marked = this.markOf(checkpoint, disk.agent);
      if (marked !== undefined && disk.isThere(marked) && !found.has(disk))
        return `checkpoint ${checkpoint} is complete without ${disk.name}`;
    }
    let newestIssue = 0;
    for (const [disk, { bytes }] of found) newestIssue = Math.max(newestIssue, disk.newestIssueSeen(bytes));
    for (const [disk, { bytes, marked }] of found) {
      const wrong = disk.check(bytes, marked, marked) ?? disk.check(bytes, newestIssue - 1, Infinity);
      if (wrong !== undefined) return `checkpoint ${checkpoint}: ${wrong}`;
    }
    return undefined;
  }
}
