/**
 * A source group's way to one target: owns the queue, the spool, the syncs and the connection of one stream.
 * `capture`, `contentUnknown` and `mark` are synchronous and never wait for anything.
 */
import { sleep } from '../core/clock.js';
import { isTidemarkError } from '../core/errors.js';
import { randomHex } from '../core/ids.js';
import { isPlanted } from '../core/planted.js';
import type { Connection } from '../core/transport.js';
import type { Ack, Hello, Verdict, Welcome } from '../stream/messages.js';
import { protocolVersion } from '../stream/messages.js';
import type { DefinitionBlob } from '../stream/definitions.js';
import { CompressionPolicy } from './compression.js';
import type { ByteRange } from './coverage.js';
import { DefinitionOffers } from './definition-offers.js';
import { Verdicts } from './verdicts.js';
import { describeLink } from './describe-link.js';
import { BlockEncoder } from './encoder.js';
import { linkBounds, type LinkBounds, type LinkOptions } from './environment.js';
import { EpochFile, unknownEpoch, type EpochState } from './epoch-file.js';
import { Folder } from './folder.js';
import { LinkCapture, type Change, type GivenMark, type MarkRequest } from './link-capture.js';
import type { LinkStatus } from './link-status.js';
import { Rate } from './rate.js';
import { chunkBodyBytesMax, RecordQueue } from './record-queue.js';
import type { QueuedMark } from './queue-item.js';
import { sendQueue } from './sender.js';
import { Session, type Hold, type SessionEnd } from './session.js';
import { Signal } from './signal.js';
import { Spool } from './spool.js';
import { Stager } from './stager.js';
import { SyncDisk, type DiskReader } from './sync-disk.js';
import { SyncRunner } from './sync-runner.js';

/** What a link needs of its group. */
export interface LinkGroup {
  readonly name: string;
  /** This agent's name: the stream's. */
  readonly agent: string;
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly reader?: DiskReader | undefined;
    readonly removed?: boolean | undefined;
  }[];
  sourceTimeMs(): number;
  /** Source time never starts before what an earlier start gave. */
  raiseSourceTime(timeMs: number): void;
  isDetached(disk: number): boolean;
  /** Connected: who places the marks from now on. */
  welcomed(link: SourceLink, streamCount: number, checkpointIntervalMs: number): void;
  /** A disk of this link became complete: a mark is due. */
  synced(link: SourceLink): void;
  /** Marks at once and holds acknowledgements. Undefined: no mark can be placed. */
  hold(link: SourceLink, hold: Hold): GivenMark | undefined;
  /** Lets acknowledgements go; true when they were held all the time. */
  release(link: SourceLink, barrier: string): boolean;
}

/** Codes after which only a person, or an action at the target, changes anything. */
const slowRetryCodes = new Set([
  'stale-incarnation',
  'stale-epoch',
  'fork',
  'group-unknown',
  'peer-refused',
  'disk-unknown',
  'protocol-version',
  'illegal-state',
]);

const fencedRetryMs = 5000;

export class SourceLink {
  readonly bounds: LinkBounds;
  private readonly group: LinkGroup;
  private readonly options: LinkOptions;
  private readonly queue: RecordQueue;
  private readonly spool: Spool;
  private readonly encoder: BlockEncoder;
  private readonly stager: Stager;
  private readonly folder: Folder;
  private readonly disks: SyncDisk[];
  private readonly taking: LinkCapture;
  private readonly signal = new Signal();
  private readonly stopping = new AbortController();
  private readonly epochFile: EpochFile;
  private readonly rate: Rate;
  private readonly offers: DefinitionOffers;
  private readonly verdicts = new Verdicts();
  private retryNow = new AbortController();
  private running: Promise<void> | undefined;
  private session: Session | undefined;
  private known: EpochState = unknownEpoch;
  private nonce: string;
  private incarnation = 0;
  private previous: Welcome['previous'];
  private durableSequence = 0;
  private durableMark: QueuedMark | undefined;
  private paused = false;
  private refusal: SessionEnd | undefined;
  private connectedSinceMs: number | undefined;
  private connectCount = 0;
  private lostIncarnations = 0;
  /** The last connection ended for this: the next is dialled at once. */
  private disksChanged = false;
  /** Names of disks that left since the last welcome. */
  private disksRemoved: string[] = [];
  private sentBytes = 0;
  private pumping = false;

  constructor(group: LinkGroup, options: LinkOptions) {
    this.group = group;
    this.options = options;
    this.bounds = linkBounds(options.bounds);
    const { storage, directory, clock, scheduler, events, random, target: link } = options;
    const { bounds } = this;
    const onChange = (): void => this.changed();
    this.nonce = randomHex(random, 16);
    this.rate = new Rate(clock);
    this.spool = new Spool({
      storage,
      directory: `${directory}/spool`,
      capacityBytes: bounds.spoolBytes,
      fileBytes: bounds.spoolFileBytes,
    });
    this.epochFile = new EpochFile(storage, directory);
    this.offers = new DefinitionOffers((vm, reason) => this.emit('definition-refused', { vm, reason }));
    this.queue = new RecordQueue(this.spool, Math.min(chunkBodyBytesMax, bounds.bufferBytes / 8));
    this.encoder = new BlockEncoder(options.compressor, new CompressionPolicy(options.cpuIdleShare));
    const parts = {
      queue: this.queue,
      spool: this.spool,
      encoder: this.encoder,
      bounds,
      scheduler,
      clock,
      events,
      link,
      onChange,
    };
    this.stager = new Stager(parts);
    this.folder = new Folder({ ...parts, drainMs: () => this.drainMs() });
    this.disks = group.disks.map((disk) => syncDiskOf(disk));
    this.taking = new LinkCapture({
      queue: this.queue,
      bounds,
      disks: this.disks,
      sourceTimeMs: () => group.sourceTimeMs(),
      isDetached: (disk) => group.isDetached(disk),
      emit: (code, fields) => this.emit(code, fields),
      onChange,
      onQueued: () => {
        this.signal.wake();
        if (this.queue.memoryBytes > bounds.bufferBytes) this.stager.kick();
      },
      onSynced: () => group.synced(this),
      isConnected: () => this.isConnected,
      hasSyncRoom: () => this.isConnected && this.spool.liveBytes === 0 && !this.paused,
      sendDigests: (message) => {
        if (!this.isConnected) return false;
        this.session?.sendDigests(message);
        return true;
      },
    });
    this.taking.attach(new SyncRunner(this.disks, this.taking, clock, random, scheduler));
  }

  get target(): string {
    return this.options.target;
  }

  /** True between welcome and the end of the connection. */
  get isConnected(): boolean {
    return this.connectedSinceMs !== undefined && this.session?.end === undefined;
  }

  get markIsDue(): boolean {
    return this.taking.markIsDue;
  }

  /** Begins to connect, and goes on until `stop`. */
  start(): void {
    this.running ??= this.run();
  }

  /** Closes the connection and gives everything back. What was not durable at the target is lost to it until a delta sync. */
  async stop(): Promise<void> {
    this.stopping.abort(new Error('stopped'));
    this.retryNow.abort(new Error('stopped'));
    this.session?.close('shutting-down', 'The source agent stops.');
    await this.running;
    this.taking.turnOff();
    await this.spool.close();
  }

  /** Dials again at once, whatever the back-off says (a person resolved what was refused, the network is back). */
  retry(): void {
    this.retryNow.abort(new Error('retry'));
  }

  /** Resolves when everything that was given a sequence before the call is durable; rejects when the signal aborts. */
  async drained(signal: AbortSignal): Promise<void> {
    const { sequence } = this.queue;
    const { incarnation } = this;
    while (this.incarnation === incarnation && this.durableSequence < sequence)
      await sleep(this.options.clock, 20, signal);
  }

  capture(change: Change): void {
    this.taking.capture(change);
  }

  contentUnknown(disk: number, offsetBytes: number, lengthBytes: number): void {
    this.taking.contentUnknown(disk, offsetBytes, lengthBytes);
  }

  /** See {@link LinkCapture.attached}. */
  attached(disk: number, missed: readonly ByteRange[] | undefined, untouched: boolean): void {
    this.taking.attached(disk, missed, untouched);
  }

  /** See {@link LinkCapture.narrow}. */
  narrow(disk: number, missed: readonly ByteRange[]): boolean {
    return this.taking.narrow(disk, missed);
  }

  /** The group has one more disk, the last of its list. */
  addDisk(): void {
    const disk = this.group.disks.at(-1);
    if (disk === undefined) return;
    this.disks.push(syncDiskOf(disk));
    this.askAgain();
  }

  /** The disk is as the group says now, and not smaller. */
  growDisk(disk: number): void {
    const { sizeBytes, reader } = this.group.disks[disk] ?? {};
    const state = this.disks[disk];
    if (state === undefined || sizeBytes === undefined) return;
    state.sourceSizeBytes = sizeBytes;
    state.reader = reader;
    if (this.taking.mode === 'off') state.take(sizeBytes);
    this.askAgain();
  }

  /** `leave`: another source of the group may have it from now on. */
  removeDisk(disk: number, change: 'remove' | 'leave' = 'remove'): void {
    const state = this.disks[disk];
    if (state === undefined) return;
    if (change === 'remove') this.disksRemoved.push(state.name);
    this.taking.remove(disk, change);
    // No stream tells it: the hello that is on its way lists the disk.
    if (this.taking.mode === 'off') this.askAgain();
  }

  /** The target agrees to changes of the disks in its welcome, so the connection is made anew, at once. */
  private askAgain(): void {
    this.session?.close('disks-changed', 'The disks of the group changed.');
    this.retryNow.abort(new Error('retry'));
  }

  /** The mark names the VM definitions that this target holds. */
  mark(request: MarkRequest): GivenMark | undefined {
    const { named } = this.offers;
    if (named === undefined) return this.taking.mark(request);
    return this.taking.mark({ ...request, attributes: { ...request.attributes, definitions: named } });
  }

  /** See {@link Verdicts.give}. */
  giveVerdict(verdict: Verdict): Promise<void> {
    return this.verdicts.give(verdict);
  }

  /** What later marks name for the VM, once the target has it; undefined: nothing any more. */
  setDefinition(vm: string, blob: DefinitionBlob | undefined): void {
    this.offers.set(vm, blob);
  }

  /** The agent runs out of slabs: move what is in memory to the spool, or give way to the bitmap. */
  relieve(): void {
    this.stager.kick(true);
  }

  /** The connection is cut when acknowledged history is to be proven again (tests, a person). */
  disconnect(reason: string): void {
    this.session?.close('peer-unreachable', reason);
  }

  private changed(): void {
    this.stager.kick();
    this.folder.kick();
    this.signal.wake();
    if (this.taking.mode === 'bitmap') this.taking.advance();
    else if (this.disks.some((disk) => disk.open !== undefined) && !this.pumping) this.pump();
  }

  private pump(): void {
    this.pumping = true;
    this.taking.runner.pump();
    this.pumping = false;
  }

  private async run(): Promise<void> {
    const { clock, random } = this.options;
    let waitMs = this.bounds.backoffMsMin;
    await this.prepare();
    while (!this.stopping.signal.aborted) {
      const connected = await this.converse();
      if (this.stopping.signal.aborted) return;
      if (this.disksChanged) continue;
      waitMs = connected ? this.bounds.backoffMsMin : Math.min(this.bounds.backoffMsMax, waitMs * 2);
      if (this.refusal !== undefined && slowRetryCodes.has(this.refusal.code)) {
        // A fenced source comes back soon after a rollback, which nobody tells it of.
        const longest = this.refusal.code === 'stale-epoch' ? fencedRetryMs : this.bounds.backoffMsMax;
        waitMs = Math.min(this.bounds.backoffMsMax, longest);
      }
      this.retryNow = new AbortController();
      await sleep(clock, waitMs * (0.5 + random.float() / 2), this.retryNow.signal).catch(() => undefined);
    }
  }

  private async prepare(): Promise<void> {
    try {
      await this.options.storage.makeDirectory(this.options.directory);
      this.known = await this.epochFile.load();
      this.group.raiseSourceTime(this.known.sourceTimeMs);
      await this.spool.open();
    } catch (error) {
      this.emit('link-storage-failed', { message: (error as Error).message });
    }
  }

  /** One connection, from dial to end. True when the target welcomed us. */
  private async converse(): Promise<boolean> {
    const { clock, dialer, address } = this.options;
    let connection: Connection;
    try {
      connection = await dialer.dial(address, this.stopping.signal);
    } catch (error) {
      this.ended(isTidemarkError(error) ? error : { code: 'peer-unreachable', message: String(error) }, false);
      return false;
    }
    if (this.stopping.signal.aborted) {
      connection.close('stopped');
      return false;
    }
    const session = this.openSession(connection);
    this.session = session;
    const welcome = await session.greet(this.hello());
    if (welcome !== undefined && (await this.accept(session, welcome)) && session.end === undefined) {
      await this.replicate(session, welcome, clock.wallMs());
    }
    const end = await session.ended;
    const connected = this.connectedSinceMs !== undefined;
    this.ended(end, connected);
    return connected;
  }

  private openSession(connection: Connection): Session {
    const { clock } = this.options;
    const session: Session = new Session(
      connection,
      clock,
      {
        ack: (ack) => this.onAck(ack),
        need: (message) => this.taking.runner.need(message),
        repair: (message) => this.taking.repair(message),
        hold: (hold) => {
          const given = this.group.hold(this, hold);
          if (given === undefined) session.sendReleased(hold.barrier, false);
          else session.sendHeld(hold.barrier, given.sequence, given.sourceTimeMs);
        },
        release: (barrier) => session.sendReleased(barrier, this.group.release(this, barrier)),
        definitionState: (state) => this.offers.answered(state),
        verdictKept: (checkpoint) => this.verdicts.kept(checkpoint),
        drained: () => this.signal.wake(),
      },
      this.bounds.keepAliveMs,
      () => this.group.sourceTimeMs(),
    );
    return session;
  }

  private hello(): Hello {
    return {
      protocol: protocolVersion,
      software: this.options.software,
      group: this.group.name,
      stream: this.group.agent,
      epoch: this.known.epoch,
      branch: this.known.branch,
      incarnation: this.incarnation,
      nonce: this.nonce,
      durableSequence: this.durableSequence,
      disks: this.disks.flatMap(({ name, sourceSizeBytes: sizeBytes, target: index, removed }) =>
        removed ? [] : [{ name, sizeBytes, ...(index === undefined ? this.former(name) : { index }) }],
      ),
      ...(this.disksRemoved.length === 0 ? {} : { disksRemoved: this.disksRemoved.slice(-256) }),
    };
  }

  /** Indexes of removed disks of that name: what the stream says of them may be on its way. */
  private former(name: string): { formerIndexes?: number[] } {
    const indexes = this.disks.flatMap((disk) =>
      disk.removed && disk.name === name && disk.target !== undefined ? [disk.target] : [],
    );
    return indexes.length === 0 ? {} : { formerIndexes: indexes.slice(-256) };
  }

  /** Checks what the target offers; false: the session was closed. */
  private async accept(session: Session, welcome: Welcome): Promise<boolean> {
    const { known } = this;
    const behind = welcome.epoch < known.epoch;
    if (behind || (welcome.epoch === known.epoch && welcome.branch !== known.branch)) {
      session.close(
        'fork',
        `The target is at epoch ${welcome.epoch} ${welcome.branch}, this source knows ${known.epoch} ${known.branch}.`,
      );
      return false;
    }
    if (welcome.incarnation === this.incarnation && welcome.durableSequence < this.durableSequence) {
      this.forget('durable-regression', `durable ${welcome.durableSequence} is less than ${this.durableSequence} was`);
      session.close('durable-regression', 'The target lost what it had called durable; a new incarnation begins.');
      return false;
    }
    if (welcome.incarnation === this.incarnation && welcome.durableSequence > this.queue.sequence) {
      session.close('protocol-error', 'The target has sequences that were never given.');
      return false;
    }
    if (welcome.epoch === known.epoch) return true;
    // What is known must be provable after a restart, so it is durable before anything is sent under it.
    const next = { epoch: welcome.epoch, branch: welcome.branch, sourceTimeMs: this.group.sourceTimeMs() };
    try {
      await this.epochFile.save(next);
    } catch (error) {
      this.emit('link-storage-failed', { message: (error as Error).message });
      session.close('storage-io', 'The epoch could not be saved.');
      return false;
    }
    this.known = next;
    return true;
  }

  private async replicate(session: Session, welcome: Welcome, nowMs: number): Promise<void> {
    const { queue, taking } = this;
    const resumed = welcome.incarnation === this.incarnation;
    this.encoder.identity = {
      stream: welcome.stream,
      incarnation: welcome.incarnation,
      epoch: welcome.epoch,
      branch: welcome.branch,
    };
    this.connectedSinceMs = nowMs;
    this.connectCount++;
    this.refusal = undefined;
    this.paused = false;
    queue.unsend();
    if (resumed) this.release(welcome.durableSequence);
    if (isPlanted('reused-sequence') && resumed) {
      queue.seal('open');
      queue.sequence = welcome.durableSequence;
    }
    if (!resumed) {
      this.incarnation = welcome.incarnation;
      this.previous = welcome.previous;
      this.durableSequence = welcome.durableSequence;
      this.durableMark = undefined;
      this.folder.reset();
      this.disksRemoved = [];
      taking.begin(welcome);
    } else taking.resume(welcome);
    this.emit('link-connected', {
      incarnation: welcome.incarnation,
      resumed,
      durableSequence: welcome.durableSequence,
    });
    this.offers.connected(session);
    this.verdicts.connected(session);
    this.group.welcomed(this, welcome.streamCount, welcome.checkpointIntervalMs);
    this.changed();
    taking.runner.pump();
    const { spool, stager, encoder, bounds, signal } = this;
    const { clock, scheduler, throttle } = this.options;
    try {
      await sendQueue(session, {
        queue,
        spool,
        stager,
        encoder,
        bounds,
        clock,
        scheduler,
        throttle,
        signal,
        isPaused: () => this.paused,
        onSent: (bytes) => this.onSent(bytes),
      });
    } catch (error) {
      this.forget('spool-unreadable', (error as Error).message);
      session.close('storage-io', 'The spool could not be read back; a new incarnation begins.');
    }
  }

  private onSent(bytes: number): void {
    this.sentBytes += bytes;
    this.rate.add(bytes);
    this.changed();
  }

  private onAck(ack: Ack): void {
    if (ack.durableSequence > this.queue.sequence) {
      this.session?.close('protocol-error', 'The target acknowledged a sequence that was never given.');
      return;
    }
    if (this.paused !== (ack.state === 'paused')) {
      this.paused = ack.state === 'paused';
      this.emit(this.paused ? 'link-paused' : 'link-resumed', { reason: ack.reason ?? '' });
    }
    this.release(ack.durableSequence);
    this.changed();
    this.taking.runner.pump();
  }

  private release(durableSequence: number): void {
    if (durableSequence <= this.durableSequence) return;
    this.durableSequence = durableSequence;
    const mark = this.queue.dropThrough(durableSequence);
    if (mark !== undefined) this.durableMark = mark;
  }

  /** Everything in this incarnation is given up; the next one begins with a delta sync. */
  private forget(code: string, message: string): void {
    this.lostIncarnations++;
    this.emit(code, { incarnation: this.incarnation, durableSequence: this.durableSequence, message });
    this.incarnation = 0;
    this.durableSequence = 0;
    this.durableMark = undefined;
    this.nonce = randomHex(this.options.random, 16);
    this.taking.turnOff();
  }

  private ended(end: SessionEnd, connected: boolean): void {
    this.session = undefined;
    this.connectedSinceMs = undefined;
    this.offers.disconnected();
    this.verdicts.disconnected();
    this.taking.runner.disconnected();
    this.queue.unsend();
    this.disksChanged = end.code === 'disks-changed';
    const refused = end.code !== 'peer-unreachable' && end.code !== 'shutting-down' && !this.disksChanged;
    const again = this.refusal?.code === end.code;
    this.refusal = refused ? { code: end.code, message: end.message } : undefined;
    if (end.code === 'stale-epoch') this.taking.retreat('fenced');
    // Only a target that knows less than we do asks for a new start; a newer start of this agent is never outdone.
    if (end.code === 'durable-regression' && !connected && this.incarnation !== 0) this.forget(end.code, end.message);
    if (connected || (refused && !again))
      this.emit(refused ? 'link-refused' : 'link-lost', { code: end.code, message: end.message });
  }

  private emit(code: string, fields: Readonly<Record<string, unknown>>): void {
    this.options.events.emit(code, { group: this.group.name, target: this.options.target, ...fields });
  }

  private drainMs(): number | undefined {
    const { bytesPerSecond } = this.rate;
    if (!this.isConnected || bytesPerSecond <= 0) return undefined;
    return (this.queue.unsentBytes * 1000) / bytesPerSecond;
  }

  get status(): LinkStatus {
    const { queue, spool, bounds, taking, folder, stager, encoder, rate, disks, session, refusal, paused } = this;
    const { target, address, throttle, clock } = this.options;
    return describeLink({
      ...{ queue, spool, bounds, taking, folder, stager, encoder, rate, disks, session, refusal, paused },
      ...{ target, address, throttle, clock },
      stopped: this.stopping.signal.aborted,
      connected: this.isConnected,
      connectedSinceMs: this.connectedSinceMs,
      known: this.known,
      incarnation: this.incarnation,
      previous: this.previous,
      durableSequence: this.durableSequence,
      durableMark: this.durableMark,
      sentBytes: this.sentBytes,
      connectCount: this.connectCount,
      lostIncarnations: this.lostIncarnations,
    });
  }
}

function syncDiskOf({ name, sizeBytes, reader, removed }: LinkGroup['disks'][number]): SyncDisk {
  const disk = new SyncDisk(name, sizeBytes, reader);
  disk.removed = removed === true;
  return disk;
}
