/**
 * The paced scrub of design rule 8: one step a round of upkeep. A chunk that does not match its digest is never served
 * and is asked for again from its source, whose bytes come through the journal like those of a sync: the newest
 * checkpoints can be read when they are durable, the replica is whole when it was promoted past them.
 *
 * `scrub.json` holds where the pass is, replaced whole once a minute. Missing or damaged: the pass begins anew.
 */
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import { isPlanted } from '../core/planted.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import { chunkBytes } from '../replica/digest.js';
import { Scrubber, type ScrubPosition } from '../replica/scrub.js';
import type { NeedMessage } from '../stream/digests.js';
import { digestCountMax } from '../stream/messages.js';
import type { GroupContext } from './context.js';
import { hasEnded } from './operations.js';

const fileName = 'scrub.json';
const fileBytesMax = 4096;
const saveIntervalMs = 60_000;
const dayMs = 86_400_000;
const stepBytesMax = 16 * 1024 * 1024;
/** One step reads so long at the most, and rests nine times as long: a busy disk is left to the others. */
const stepMsMax = 100;
const restFactor = 9;
/** What was asked for and did not come is asked for again. */
const askIntervalMs = 60_000;
/** Without a connection of the source. */
const askAgainMs = 5000;
/** Damaged chunks that are remembered; more are found again by the next pass. */
const damagedMax = 16_384;

const fileSchema = z.strictObject({
  disk: z.number().int().min(-1).max(65_535),
  chunk: z.number().int().nonnegative(),
  passStartedMs: z.number().nonnegative(),
  passEndedMs: z.number().nonnegative().nullable(),
});

export interface ScrubCounters {
  checkedBytes: number;
  passes: number;
  /** Chunks found damaged or unreadable, each once until it is repaired. */
  damagedFound: number;
  repaired: number;
}

/** Asks the source of a disk for chunks; false: it is not connected. */
export type AskRepair = (chunks: Omit<NeedMessage, 'requestId'>) => boolean;

export class ReplicaScrub {
  readonly counters: ScrubCounters = { checkedBytes: 0, passes: 0, damagedFound: 0, repaired: 0 };
  /** Wall clock; undefined: no pass has ended yet. */
  passEndedMs: number | undefined;
  private passStartedMs: number;
  private scrubber: Scrubber | undefined;
  private readonly damaged = new Map<string, ScrubPosition>();
  private allowanceBytes = 0;
  private lastRoundMs: number;
  private restUntilMs = -Infinity;
  private savedMs: number;
  private askAtMs = 0;

  constructor(
    private readonly context: GroupContext,
    private readonly askRepair: AskRepair,
  ) {
    const { clock, replicas } = context;
    this.passStartedMs = clock.wallMs();
    this.lastRoundMs = this.savedMs = clock.monotonicMs();
    replicas.replica.onDamaged = (disk, chunk) => this.found({ disk, chunk }, 'replica-damaged');
  }

  /** Chunks that are known to be damaged now. */
  get damagedCount(): number {
    return this.damaged.size;
  }

  /** How much of the present pass is done, 0 to 1. */
  get passShare(): number {
    const { replica } = this.context.replicas;
    const at = this.scrubber?.position;
    let total = 0;
    let done = 0;
    for (const index of replica.diskIndexes) {
      const { chunkCount } = replica.disk(index);
      total += chunkCount;
      if (at === undefined || index > at.disk) continue;
      done += index < at.disk ? chunkCount : Math.min(at.chunk, chunkCount);
    }
    return total === 0 ? 0 : done / total;
  }

  /** One bounded step, and what is to be repaired; nothing while an operation runs. Called by upkeep only. */
  async round(): Promise<void> {
    const { clock, manifest } = this.context;
    const nowMs = clock.monotonicMs();
    const elapsedMs = nowMs - this.lastRoundMs;
    this.lastRoundMs = nowMs;
    if ([...manifest.state.operations.values()].some((record) => !hasEnded(record))) return;
    this.scrubber ??= await this.open();
    await this.step(this.scrubber, elapsedMs);
    if (this.damaged.size > 0 && nowMs >= this.askAtMs) await this.repair(nowMs);
    if (nowMs - this.savedMs >= saveIntervalMs) await this.save();
  }

  private async step(scrubber: Scrubber, elapsedMs: number): Promise<void> {
    const { clock, settings, replicas } = this.context;
    if (settings.scrubPassDays === 0 || clock.monotonicMs() < this.restUntilMs) return;
    if (!this.passMayGoOn(scrubber)) return;
    const { replica } = replicas;
    const imageBytes = replica.diskIndexes.reduce((sum, index) => sum + replica.disk(index).sizeBytes, 0);
    const earnedBytes = (imageBytes * elapsedMs) / (settings.scrubPassDays * dayMs);
    this.allowanceBytes = Math.min(stepBytesMax, this.allowanceBytes + earnedBytes);
    if (this.allowanceBytes < chunkBytes) return;
    const startMs = clock.monotonicMs();
    const { checkedBytes, findings, passDone } = await scrubber.step(this.allowanceBytes, stepMsMax);
    this.restUntilMs = clock.monotonicMs() + restFactor * (clock.monotonicMs() - startMs);
    this.allowanceBytes -= checkedBytes;
    this.counters.checkedBytes += checkedBytes;
    for (const finding of findings) this.found(finding, finding.unreadable ? 'replica-unreadable' : 'replica-damaged');
    if (!passDone) return;
    this.counters.passes++;
    this.passEndedMs = clock.wallMs();
    this.context.events.emit('replica-scrubbed', {
      group: this.context.name,
      tookMs: this.passEndedMs - this.passStartedMs,
      damaged: this.damaged.size,
    });
  }

  /** One pass a period, however little there is to read. A wall clock that was set back does not hold it up. */
  private passMayGoOn({ position }: Scrubber): boolean {
    if (position.disk !== -1) return true;
    const nowMs = this.context.clock.wallMs();
    const nextMs = this.passStartedMs + this.context.settings.scrubPassDays * dayMs;
    if (this.passEndedMs !== undefined && nowMs >= this.passStartedMs && nowMs < nextMs) return false;
    this.passStartedMs = nowMs;
    return true;
  }

  private found({ disk, chunk }: ScrubPosition, code: 'replica-damaged' | 'replica-unreadable'): void {
    const key = `${disk}/${chunk}`;
    if (this.damaged.has(key) || this.damaged.size >= damagedMax) return;
    this.damaged.set(key, { disk, chunk });
    this.counters.damagedFound++;
    this.askAtMs = 0;
    const { name, manifest, events } = this.context;
    events.emit(code, { group: name, disk: manifest.state.disks.get(disk)?.name ?? disk, chunk });
  }

  /** Forgets what is whole again and asks for what the journal does not hold either. */
  private async repair(nowMs: number): Promise<void> {
    const { context } = this;
    this.askAtMs = nowMs + askIntervalMs;
    const { replica } = context.replicas;
    const missing: ScrubPosition[] = [];
    const cut = await context.journal.cut(context.journal.durable);
    try {
      for (const [key, at] of [...this.damaged]) {
        const disk = replica.diskIndexes.includes(at.disk) ? replica.disk(at.disk) : undefined;
        if (disk === undefined || (await isWhole(disk.check(at.chunk)))) {
          this.damaged.delete(key);
          if (disk === undefined) continue;
          this.counters.repaired++;
          context.events.emit('replica-repaired', { group: context.name, disk: disk.name, chunk: at.chunk });
          continue;
        }
        const offsetBytes = at.chunk * chunkBytes;
        const lengthBytes = Math.min(chunkBytes, disk.sizeBytes - offsetBytes);
        const pieces = await cut.lookup(at.disk, offsetBytes, lengthBytes);
        if (pieces.some(({ source }) => source === 'base')) missing.push(at);
      }
    } finally {
      cut.release();
    }
    if (isPlanted('damage-not-repaired')) return;
    for (const message of messagesFor(missing)) if (!this.askRepair(message)) this.askAtMs = nowMs + askAgainMs;
  }

  private async open(): Promise<Scrubber> {
    const { storage, directory, clock, replicas } = this.context;
    const text = await readWhole(storage, `${directory}/${fileName}`, fileBytesMax).catch((error: unknown) => {
      if (isTidemarkError(error, 'storage-not-found')) return undefined;
      throw error;
    });
    const saved = fileSchema.safeParse(parsed(text)).data;
    if (saved === undefined) return new Scrubber(replicas.replica, clock);
    this.passStartedMs = saved.passStartedMs;
    this.passEndedMs = saved.passEndedMs ?? undefined;
    return new Scrubber(replicas.replica, clock, saved);
  }

  private async save(): Promise<void> {
    const { storage, directory, clock } = this.context;
    this.savedMs = clock.monotonicMs();
    if (this.scrubber === undefined) return;
    const { passStartedMs, passEndedMs = null } = this;
    const state: z.infer<typeof fileSchema> = { ...this.scrubber.position, passStartedMs, passEndedMs };
    await writeWhole(storage, directory, fileName, `${JSON.stringify(state)}\n`);
  }
}

function parsed(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isWhole(check: Promise<boolean>): Promise<boolean> {
  return check.catch((error: unknown) => {
    if (isTidemarkError(error, 'storage-io')) return false;
    throw error;
  });
}

/** One message for chunks of a disk that lie within `digestCountMax` of each other. */
function messagesFor(chunks: readonly ScrubPosition[]): Omit<NeedMessage, 'requestId'>[] {
  const sorted = [...chunks].sort((a, b) => a.disk - b.disk || a.chunk - b.chunk);
  const runs: ScrubPosition[][] = [];
  for (const at of sorted) {
    const first = runs.at(-1)?.[0];
    if (first?.disk === at.disk && at.chunk - first.chunk < digestCountMax) runs.at(-1)!.push(at);
    else runs.push([at]);
  }
  return runs.map((run) => {
    const { disk, chunk: firstChunk } = run[0]!;
    const count = run.at(-1)!.chunk - firstChunk + 1;
    const bits = new Uint8Array(Math.ceil(count / 8));
    for (const { chunk } of run) bits[(chunk - firstChunk) >> 3]! |= 1 << ((chunk - firstChunk) & 7);
    return { disk, firstChunk, count, bits };
  });
}
