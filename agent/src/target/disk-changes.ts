/**
 * Which disks a source may send, and how a group's disks change while it is protected. Each change is durable in the
 * manifest before the source is welcomed, or before its block is in the journal, and names the position from which on it
 * holds: a checkpoint is opened with the disks and sizes of its moment.
 *
 * | what the source says | rule |
 * |---|---|
 * | a disk has grown | taken up to `diskSizeMax`; beyond, the disk stays as it was and is missing from the checkpoints |
 * | a disk has shrunk | refused; missing from the checkpoints until it is large again or a person forgets it |
 * | a missing disk is there again | taken, as if it were new; compared with what is here |
 * | a new disk, `newDisks` is accept or it was declared | taken up to `diskSizeMax`; beyond, checkpoints are incomplete |
 * | a new disk, `newDisks` is refuse | left out: checkpoints are complete without it, as a person said |
 * | a disk was removed | taken; earlier checkpoints keep it |
 * | a new start does not name a disk | missing from the checkpoints: a mistake in a configuration removes nothing |
 * | a disk left (its VM is at another host) | missing from the checkpoints until a source of the group sends it |
 * | another source has a disk that its source does not have | taken over, with its history; compared with what is here |
 * | another source has a disk that its source has | refused; asked again as soon as the disk has left |
 */
import { z } from 'zod';
import type { DiskChange } from '../block/record.js';
import { TidemarkError } from '../core/errors.js';
import { Mutex } from '../core/mutex.js';
import { isPlanted } from '../core/planted.js';
import type { Position } from '../journal/position.js';
import { digestChunkBytes, type Hello, type Welcome } from '../stream/messages.js';
import type { GroupContext } from './context.js';
import { disksPast, nextDiskIndex } from './disk-set.js';
import type { DiskRecord, GroupDisk } from './manifest.js';

const disksMax = 256;
const diskIndex = z.number().int().nonnegative().max(65_535);
const sizeBytes = z
  .number()
  .int()
  .positive()
  .max(Number.MAX_SAFE_INTEGER - digestChunkBytes);

export const diskChangeSchema: z.ZodType<DiskChange> = z.discriminatedUnion('change', [
  z.strictObject({ change: z.literal('add'), disk: diskIndex, name: z.string().max(63), sizeBytes }),
  z.strictObject({ change: z.literal('grow'), disk: diskIndex, sizeBytes }),
  z.strictObject({ change: z.literal('remove'), disk: diskIndex }),
  z.strictObject({ change: z.literal('leave'), disk: diskIndex }),
]);

type Told = Pick<Welcome, 'disks' | 'disksRefused'>;
type Asked = Hello['disks'][number];
type Refused = NonNullable<Told['disksRefused']>[number];
/** The answer for one disk: taken, or why not. */
type Answer = Told['disks'][number] | Refused;

export class DiskChanges {
  private readonly changes = new Mutex();
  /** By name of a disk: the streams that were refused it because another has it. */
  private readonly waiting = new Map<string, Set<number>>();

  /** `ask`: these sources are to say hello again. */
  constructor(
    private readonly context: GroupContext,
    private readonly ask: (streams: ReadonlySet<number>) => void,
  ) {}

  /**
   * What a hello may send, with everything that it changes durable. `resumed`: the incarnation goes on, its own stream says
   * from where on a change holds; otherwise it holds from the start of the new incarnation on.
   */
  admit(stream: number, hello: Hello, incarnation: number, resumed: boolean): Promise<Told> {
    return this.changes.run(async () => {
      const start = resumed ? undefined : { incarnation, sequence: 0 };
      if (start !== undefined) await this.begin(stream, hello, start);
      const disks: Told['disks'] = [];
      const disksRefused: Refused[] = [];
      for (const asked of hello.disks) {
        const answer = start === undefined ? await this.resume(stream, asked) : await this.join(stream, asked, start);
        if ('index' in answer) disks.push(answer);
        else disksRefused.push(answer);
        if ('index' in answer && (answer.sizeBytes ?? 0) < asked.sizeBytes) disksRefused.push(this.tooLarge(asked));
      }
      for (const { name, reason } of disksRefused) this.emit('disk-refused', { disk: name, reason });
      return { disks, ...(disksRefused.length === 0 ? {} : { disksRefused }) };
    });
  }

  /** A change that the stream says, before its block goes to the journal. Throws `protocol-error`. Idempotent. */
  apply(stream: number, position: Position, payload: unknown): Promise<void> {
    return this.changes.run(async () => {
      const parsed = diskChangeSchema.safeParse(payload);
      if (!parsed.success) throw new TidemarkError('protocol-error', 'A change of a disk is not valid.');
      const change = parsed.data;
      const { manifest, replicas } = this.context;
      const known = manifest.state.diskChanges.filter(({ index }) => index === change.disk);
      const newest = known.at(-1);
      const again = known.find((record) => record.stream === stream && isSame(record.since, position));
      const isOurs = newest?.stream === stream || (newest?.left === true && change.change === 'add');
      if (newest === undefined || (again === undefined && !isOurs))
        throw wrong(change, 'the disk is not of this stream');
      const record = again ?? recordOf(newest, change, stream, position);
      if (again === undefined) {
        if (isPlanted('disk-change-after-journal')) this.context.clock.after(50, () => void this.append(record));
        else await this.append(record);
        this.emit(`disk-${change.change}`, { disk: record.name, index: record.index, sizeBytes: record.sizeBytes });
        if (record.left === true) this.freed(record.name);
      }
      if (!record.removed) await replicas.ensure(record);
    });
  }

  /** A person gives up a disk that its source does not send any more. `illegal-state` while it does. Idempotent. */
  forget(name: string): Promise<void> {
    return this.changes.run(async () => {
      const disk = this.find((each) => each.name === name);
      if (disk === undefined) {
        if (this.context.manifest.state.diskChanges.some((record) => record.name === name && record.removed)) return;
        throw new TidemarkError('disk-unknown', `Group ${this.context.name} has no disk ${name}.`);
      }
      if (disk.missing !== true)
        throw new TidemarkError('illegal-state', `The source still sends disk ${name}: remove it there.`);
      // From where on it was missing: the checkpoints since then are complete without it.
      const { since } = this.context.manifest.state.diskChanges.findLast(
        ({ index }) => index === disk.index,
      ) as DiskRecord;
      await this.record(disk, { removed: true, missing: undefined }, since);
      this.emit('disk-remove', { disk: name, index: disk.index });
    });
  }

  /** Deletes the images of removed disks that the history does not reach back to any more. */
  sweep(): Promise<void> {
    return this.changes.run(() => this.context.replicas.drop(disksPast(this.context.manifest.state)));
  }

  /** The disks that left, that are not named, and indexes that were given and never used. */
  private async begin(stream: number, hello: Hello, start: Position): Promise<void> {
    const { state } = this.context.manifest;
    const left = new Set(hello.disksRemoved);
    const named = new Set(hello.disks.map(({ name }) => name));
    const pending = state.diskChanges.filter((record) => record.pending === true && record.stream === stream);
    for (const record of pending) {
      const newest = pending.findLast(({ name }) => name === record.name);
      if (newest !== record || !named.has(record.name))
        await this.append({ ...record, pending: undefined, removed: true });
    }
    for (const disk of [...state.disks.values()].filter((each) => each.stream === stream)) {
      const { name, index } = disk;
      if (left.has(name)) {
        await this.record(disk, { removed: true, missing: undefined }, start);
        this.emit('disk-remove', { disk: name, index });
      } else if (!named.has(name)) await this.miss(disk, start, true);
    }
  }

  private async resume(stream: number, asked: Asked): Promise<Answer> {
    const { name, index } = asked;
    if (index === undefined) {
      const known = this.known(stream, name);
      if (known?.missing !== true) return this.reserve(stream, asked);
      const sizeBytes = this.taken(known, asked);
      return this.whyShrunk(known, asked) ?? { name, index: known.index, sync: 'delta', sizeBytes };
    }
    const { state } = this.context.manifest;
    const record = state.diskChanges.findLast((each) => each.index === index);
    const isKnown = state.diskChanges.some((each) => each.index === index && each.name === name);
    if (record === undefined || !isKnown)
      throw new TidemarkError('protocol-error', `Disk ${name} has no index ${index} in ${this.context.name}.`);
    // Its stream takes the disk over, or still holds what it wrote before another did: only a new start knows better.
    if (record.stream !== stream && record.left !== true)
      throw new TidemarkError('durable-regression', `Disk ${name} is sent by ${this.sourceOf(record)} now.`);
    return this.whyShrunk(record, asked) ?? { name, index, sync: 'none', sizeBytes: this.taken(record, asked) };
  }

  /** A new incarnation: what is told holds from its start on. */
  private async join(stream: number, asked: Asked, start: Position): Promise<Answer> {
    const { name } = asked;
    const known = this.known(stream, name);
    if (known === undefined) return this.joinNew(stream, asked, start);
    const { index } = known;
    const shrunk = this.whyShrunk(known, asked);
    if (shrunk !== undefined) {
      await this.miss(known, start);
      return shrunk;
    }
    const taken = this.taken(known, asked);
    if (taken > known.sizeBytes || known.missing === true) {
      await this.record(known, { stream, sizeBytes: taken, missing: undefined }, start);
      if (known.stream !== stream) this.emit('disk-add', { disk: name, index, sizeBytes: taken });
      else if (taken > known.sizeBytes) this.emit('disk-grow', { disk: name, index, sizeBytes: taken });
    }
    await this.context.replicas.ensure({ index, name, sizeBytes: taken });
    const sync = (await this.isFresh(index, start)) ? 'initial' : 'delta';
    return { name, index, sync, sizeBytes: taken, sizeBefore: this.sizeBefore(index, stream, start) ?? taken };
  }

  /** The stream's own, or one that its source does not have. */
  private known(stream: number, name: string): GroupDisk | undefined {
    const own = this.find((disk) => disk.stream === stream && disk.name === name);
    return own ?? this.find((disk) => disk.left === true && disk.name === name);
  }

  private freed(name: string): void {
    const streams = this.waiting.get(name);
    this.waiting.delete(name);
    if (streams !== undefined) this.ask(streams);
  }

  /** What held before this start, also when the hello is repeated. */
  private sizeBefore(index: number, stream: number, start: Position): number | undefined {
    const { diskChanges } = this.context.manifest.state;
    const isNow = (record: DiskRecord): boolean => record.stream === stream && isSame(record.since, start);
    return diskChanges.findLast((record) => record.index === index && !isNow(record))?.sizeBytes;
  }

  private async joinNew(stream: number, asked: Asked, start: Position): Promise<Answer> {
    const given = await this.reserve(stream, asked);
    if (!('index' in given)) return given;
    const { index, name } = given;
    await this.append({ type: 'disk', index, name, sizeBytes: asked.sizeBytes, stream, removed: false, since: start });
    this.emit('disk-add', { disk: name, index, sizeBytes: asked.sizeBytes });
    return given;
  }

  /** Gives the disk an index of its own and an empty image, both durable, or says why not. */
  private async reserve(stream: number, asked: Asked): Promise<Answer> {
    const { manifest, replicas } = this.context;
    const { name, sizeBytes, formerIndexes } = asked;
    const why = this.whyNotNew(stream, asked);
    if (why !== undefined) return why;
    const given = manifest.state.diskChanges.findLast(
      (record) =>
        record.pending === true &&
        record.stream === stream &&
        record.name === name &&
        !(formerIndexes ?? []).includes(record.index),
    );
    // Another disk of that name, which the source gave up before it heard of its index: no stream names it.
    const isGivenUp = given !== undefined && given.sizeBytes > sizeBytes;
    if (isGivenUp) await this.append({ ...given, pending: undefined, removed: true });
    const index = given === undefined || isGivenUp ? nextDiskIndex(manifest.state) : given.index;
    const record = { type: 'disk' as const, index, name, sizeBytes, stream, removed: false, pending: true };
    if (index !== given?.index || given.sizeBytes < sizeBytes) await this.append(record);
    await replicas.ensure(record);
    return { name, index, sync: 'initial', sizeBytes };
  }

  private whyNotNew(stream: number, asked: Asked): Refused | undefined {
    const { name, sizeBytes } = asked;
    const { settings, manifest } = this.context;
    const { disks } = manifest.state;
    const other = this.find((disk) => disk.name === name && disk.stream !== stream);
    if (other !== undefined) {
      this.waiting.set(name, new Set([...(this.waiting.get(name) ?? []), stream]));
      return { name, reason: `${this.sourceOf(other)} sends a disk of that name, and has not given it up` };
    }
    if (settings.newDisks === 'refuse' && !settings.declaredDisks.includes(name))
      return { name, reason: 'newDisks is refuse and the disk is not declared', leftOut: true };
    if (sizeBytes > settings.diskSizeMax) return this.tooLarge(asked);
    if (sizeBytes === 0) return { name, reason: 'it has no bytes' };
    return disks.size < disksMax ? undefined : { name, reason: `the group has ${disksMax} disks` };
  }

  private whyShrunk(known: GroupDisk, { name, sizeBytes }: Asked): Refused | undefined {
    if (sizeBytes >= known.sizeBytes) return undefined;
    return { name, reason: `it has ${sizeBytes} bytes, fewer than the ${known.sizeBytes} here` };
  }

  /** The size that is taken: the source's, or the one before when that is out of bounds. */
  private taken(known: GroupDisk, { sizeBytes }: Asked): number {
    return sizeBytes <= this.context.settings.diskSizeMax ? sizeBytes : known.sizeBytes;
  }

  private tooLarge({ name, sizeBytes }: Asked): Refused {
    return { name, reason: `its ${sizeBytes} bytes are more than diskSizeMax ${this.context.settings.diskSizeMax}` };
  }

  /** Nothing of the disk can be in the journal or the image: the first sync goes to the image directly. */
  private async isFresh(index: number, start: Position): Promise<boolean> {
    const { manifest, replicas, journal } = this.context;
    if (!(await replicas.isEmpty(index))) return false;
    const first = manifest.state.diskChanges.find((record) => record.index === index);
    return journal.usage.recordCount === 0 || isSame(first?.since, start);
  }

  /** `left`: its source does not have it. */
  private async miss(disk: GroupDisk, since: Position, left = false): Promise<void> {
    const { name, index } = disk;
    if (disk.missing === true && (disk.left === true || !left)) return;
    await this.record(disk, { missing: true, ...(left ? { left } : {}) }, since);
    if (disk.missing !== true) this.emit('disk-missing', { disk: name, index });
    if (left) this.freed(name);
  }

  private record(disk: GroupDisk, change: Partial<DiskRecord>, since: Position | undefined): Promise<void> {
    const { index, name, sizeBytes, stream, missing } = disk;
    return this.append({ type: 'disk', index, name, sizeBytes, stream, missing, removed: false, ...change, since });
  }

  private append(record: DiskRecord): Promise<void> {
    return this.context.manifest.append(record);
  }

  private sourceOf({ stream }: Pick<GroupDisk, 'stream'>): string {
    return this.context.manifest.state.streams.get(stream) ?? 'another source';
  }

  private find(matches: (disk: GroupDisk) => boolean): GroupDisk | undefined {
    return [...this.context.manifest.state.disks.values()].find(matches);
  }

  private emit(code: string, fields: Readonly<Record<string, unknown>>): void {
    this.context.events.emit(code, { group: this.context.name, ...fields });
  }
}

function recordOf(newest: DiskRecord, change: DiskChange, stream: number, since: Position): DiskRecord {
  const { index, name, sizeBytes: before } = newest;
  const record = { type: 'disk' as const, index, name, sizeBytes: before, stream, removed: false, since };
  if (newest.removed) throw wrong(change, 'the disk was removed');
  const absent = newest.pending === true || newest.missing === true;
  if (absent !== (change.change === 'add')) throw wrong(change, 'the disk is in another state');
  if (change.change === 'remove') return { ...record, removed: true };
  if (change.change === 'leave') return { ...record, missing: true, left: true };
  if (change.sizeBytes < before) throw wrong(change, 'a disk does not shrink');
  return { ...record, sizeBytes: change.sizeBytes };
}

function wrong(change: DiskChange, why: string): TidemarkError {
  return new TidemarkError('protocol-error', `Change ${change.change} of disk ${change.disk}: ${why}.`);
}

function isSame(a: Position | undefined, b: Position): boolean {
  return a?.incarnation === b.incarnation && a.sequence === b.sequence;
}
