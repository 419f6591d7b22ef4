/**
 * The way of a block at the target: checked on arrival, queued, base data to the replica, the rest to the journal, in
 * arrival order for the whole group; checked again in the same turn as it is appended.
 */
import { decodeTable, type Block } from '../block/block.js';
import { RecordKind, recordKinds } from '../block/record.js';
import { blockBody } from '../block/body.js';
import { TidemarkError } from '../core/errors.js';
import type { Position } from '../journal/position.js';
import type { Journal } from '../journal/types.js';
import { isBlockCurrent } from './admission.js';
import type { Manifest } from './manifest.js';

/** Where base data of the first sync goes. */
export interface BaseTarget {
  applyBase(disk: number, offsetBytes: number, bytes: Uint8Array): Promise<void>;
  /** Returns when everything applied before the call is fdatasynced, digests included. */
  flushBase(): Promise<void>;
}

/** Makes a change of the group's disks durable; idempotent. Throws `protocol-error`. */
export type DiskChangeHandler = (stream: number, position: Position, payload: unknown) => Promise<void>;

/** The session that a block came by; a closed one's blocks are dropped, they will be sent again. */
export interface IngestSource {
  readonly closed: boolean;
  close(code: string, message: string): void;
}

interface Item {
  readonly source: IngestSource;
  readonly bytes: number;
  /** Runs in order with the blocks; `undefined` for a block. */
  readonly task: (() => Promise<void>) | undefined;
  readonly block: Block | undefined;
  readonly kind: BlockKind;
}

/** Base data goes to the replica, a change of a disk to the manifest, before the journal. */
export type BlockKind = 'data' | 'base' | 'disk-change';

/** What the block holds and nothing else; a mixture is refused. */
export function kindOfBlock(block: Block): BlockKind {
  const view = new DataView(block.table.buffer, block.table.byteOffset, block.table.byteLength);
  let base = 0;
  let changes = 0;
  for (let at = 0; at < block.table.length; at += 24) {
    const kind = view.getUint8(at);
    if (kind === RecordKind.base) base++;
    else if (kind === RecordKind.diskChange) changes++;
  }
  if (base + changes === 0) return 'data';
  if (base === block.header.recordCount) return 'base';
  if (changes !== 1 || block.header.recordCount !== 1 || block.header.folded)
    throw new TidemarkError('protocol-error', 'A block mixes base data or a change of a disk with other records.');
  return 'disk-change';
}

export class Ingest {
  private queue: Item[] = [];
  private running = false;
  private idle: (() => void)[] = [];
  private queuedBytesNow = 0;

  constructor(
    private readonly manifest: Manifest,
    private readonly journal: Journal,
    private readonly base: BaseTarget,
    private readonly changeDisk: DiskChangeHandler,
    private readonly onMoved: () => void,
  ) {}

  /** Bytes that arrived and are not yet in the journal's hands. */
  get queuedBytes(): number {
    return this.queuedBytesNow;
  }

  /** Takes the block's memory over. Throws when it mixes kinds of records that go different ways. */
  pushBlock(source: IngestSource, block: Block): void {
    this.push({ source, block, kind: kindOfBlock(block), task: undefined, bytes: block.bytes.length });
  }

  /** Runs `task` after every block that was pushed before it was appended. */
  pushTask(source: IngestSource, task: () => Promise<void>): void {
    this.push({ source, task, block: undefined, kind: 'data', bytes: 0 });
  }

  /** Resolves when the queue has been empty once. */
  drained(): Promise<void> {
    if (!this.running) return Promise.resolve();
    return new Promise((resolve) => this.idle.push(resolve));
  }

  private push(item: Item): void {
    this.queue.push(item);
    this.queuedBytesNow += item.bytes;
    if (this.running) return;
    this.running = true;
    void this.run();
  }

  private async run(): Promise<void> {
    while (this.queue.length > 0) {
      const batch = this.queue;
      this.queue = [];
      await this.runParts(batch);
      for (const item of batch) this.queuedBytesNow -= item.bytes;
      this.onMoved();
    }
    this.running = false;
    for (const resolve of this.idle.splice(0)) resolve();
  }

  /** What lies behind a change of a disk is checked by what that says. */
  private async runParts(batch: readonly Item[]): Promise<void> {
    for (let from = 0; from < batch.length;) {
      const change = batch.findIndex(({ kind }, at) => at >= from && kind === 'disk-change');
      const to = change < 0 ? batch.length : change;
      if (to > from) await this.runBatch(batch.slice(from, to));
      const item = batch[change];
      if (item !== undefined) await this.runChange(item);
      from = to + 1;
    }
  }

  private async runChange({ source, block }: Item): Promise<void> {
    if (source.closed || block === undefined) return;
    try {
      const { stream, incarnation, firstSequence: sequence } = block.header;
      // What came before must never have to be sent again: the disk may be another source's, or gone, by then.
      await this.journal.flush();
      if (isBlockCurrent(block.header, this.manifest.state))
        await this.changeDisk(stream, { incarnation, sequence }, jsonOf(blockBody(block)));
      if (!source.closed) this.append(source, block, false);
    } catch (error) {
      close(source, error);
    }
  }

  private async runBatch(batch: readonly Item[]): Promise<void> {
    try {
      await this.applyBase(batch);
    } catch (error) {
      closeAll(batch, error);
      return;
    }
    for (const { source, block, kind, task } of batch) {
      if (source.closed) continue;
      try {
        if (task !== undefined) await task();
        else if (block !== undefined) this.append(source, block, kind === 'base');
      } catch (error) {
        close(source, error);
      }
    }
  }

  private async applyBase(batch: readonly Item[]): Promise<void> {
    let applied = false;
    for (const { source, block, kind } of batch) {
      if (block === undefined || source.closed || kind !== 'base') continue;
      if (!isBlockCurrent(block.header, this.manifest.state)) continue;
      try {
        this.checkDisks(block);
      } catch (error) {
        close(source, error);
        continue;
      }
      const body = blockBody(block);
      for (const record of decodeTable(block.header, block.table)) {
        const end = record.bodyOffset + record.lengthBytes;
        await this.base.applyBase(record.disk, record.offsetBytes, body.subarray(record.bodyOffset, end));
        applied = true;
      }
    }
    if (applied) await this.base.flushBase();
  }

  /** Synchronous on purpose: the check and the append see the same state. */
  private append(source: IngestSource, block: Block, isBase: boolean): void {
    const { header } = block;
    if (!isBlockCurrent(header, this.manifest.state)) {
      source.close('stale-epoch', `Block of epoch ${header.epoch}, incarnation ${header.incarnation} is stale.`);
      return;
    }
    this.checkDisks(block);
    this.journal.append(block, { bodyElided: isBase, owned: true });
  }

  /** No record may touch a disk that is not the stream's, or bytes outside it. */
  private checkDisks(block: Block): void {
    const { disks } = this.manifest.state;
    for (const record of decodeTable(block.header, block.table)) {
      const rules = recordKinds[record.kind];
      if (!rules.data && !rules.zero && record.kind !== RecordKind.base) continue;
      const disk = disks.get(record.disk);
      if (disk?.stream !== block.header.stream || record.offsetBytes + record.lengthBytes > disk.sizeBytes) {
        throw new TidemarkError('protocol-error', `A record lies outside disk ${record.disk} of its stream.`);
      }
    }
  }
}

function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch {
    return undefined;
  }
}

function close(source: IngestSource, error: unknown): void {
  if (error instanceof TidemarkError) source.close(error.code, error.message);
  else throw error;
}

function closeAll(batch: readonly Item[], error: unknown): void {
  for (const { source } of batch) if (!source.closed) close(source, error);
}
