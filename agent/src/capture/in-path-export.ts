/**
 * A disk served from a raw file or an upstream NBD export, its writes split on their way: upstream first, then the
 * sequence, then the acknowledgement. Overlapping writes go one after the other, so that sequence order is the order on
 * the disk. A write that failed upstream left nobody knows what: its range is synced, the guest gets the error.
 */
import { RecordKind } from '../block/record.js';
import { isTidemarkError } from '../core/errors.js';
import { NbdError, type ExportBackend, type Extent } from '../nbd/backend.js';
import type { UpstreamDisk } from './upstream-disk.js';
import type { Payload } from '../nbd/payload.js';
import type { Change } from '../link/link-capture.js';
import { RangeLock } from './range-lock.js';
import type { SourceGroup } from './source-group.js';

export class InPathExport implements ExportBackend {
  readonly readOnly = false;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes = 65_536;
  private readonly group: SourceGroup;
  private readonly disk: number;
  private readonly upstream: UpstreamDisk;
  private readonly lock = new RangeLock();
  private readonly onClients: ((count: number) => void) | undefined;
  private clientCount = 0;

  constructor(group: SourceGroup, disk: number, upstream: UpstreamDisk, onClients?: (count: number) => void) {
    this.group = group;
    this.disk = disk;
    this.upstream = upstream;
    this.minimumBlockBytes = upstream.minimumBlockBytes ?? 1;
    this.onClients = onClients;
  }

  /** Of the disk now; a client sees it from its next connection on. */
  get sizeBytes(): number {
    return this.group.disks[this.disk]?.sizeBytes ?? 0;
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    try {
      await this.upstream.read(target, offsetBytes);
    } catch (error) {
      throw toNbdError(error);
    }
  }

  write(offsetBytes: number, payload: Payload, fua: boolean): Promise<void> {
    const change = { disk: this.disk, kind: RecordKind.write, offsetBytes, lengthBytes: payload.bytes.length, payload };
    return this.change(change, () => this.upstream.write(payload.bytes, offsetBytes, fua));
  }

  zero(offsetBytes: number, lengthBytes: number, _mayTrim: boolean, fua: boolean): Promise<void> {
    const change = { disk: this.disk, kind: RecordKind.zero, offsetBytes, lengthBytes };
    return this.change(change, () => this.zeroUpstream(offsetBytes, lengthBytes, fua));
  }

  /** After a trim a disk may read anything, but source and target must read the same: zeros, on both. */
  trim(offsetBytes: number, lengthBytes: number, fua: boolean): Promise<void> {
    const change = { disk: this.disk, kind: RecordKind.discard, offsetBytes, lengthBytes };
    return this.change(change, () => this.zeroUpstream(offsetBytes, lengthBytes, fua));
  }

  async flush(): Promise<void> {
    try {
      await this.upstream.flush();
    } catch (error) {
      throw toNbdError(error);
    }
  }

  async extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    const { upstream } = this;
    if (upstream.extents !== undefined) return (await upstream.extents(offsetBytes, lengthBytes)).slice(0, countMax);
    return [{ lengthBytes, hole: false, zero: false }];
  }

  connected(): void {
    this.onClients?.(++this.clientCount);
  }

  disconnected(): void {
    this.onClients?.(--this.clientCount);
  }

  private async zeroUpstream(offsetBytes: number, lengthBytes: number, fua: boolean): Promise<void> {
    await this.upstream.zero(offsetBytes, lengthBytes);
    if (fua) await this.upstream.flush();
  }

  private async change(change: Change, apply: () => Promise<void>): Promise<void> {
    const { offsetBytes, lengthBytes } = change;
    const taken = this.lock.acquire(offsetBytes, lengthBytes);
    const release = typeof taken === 'function' ? taken : await taken;
    let held: Promise<void> | undefined;
    try {
      await apply();
      held = this.group.capture(change);
    } catch (error) {
      this.group.contentUnknown(this.disk, offsetBytes, lengthBytes);
      throw toNbdError(error);
    } finally {
      release();
    }
    // Sequenced already: a barrier delays the answer only, not what overlaps.
    await held;
  }
}

function toNbdError(error: unknown): unknown {
  if (error instanceof NbdError) return error;
  if (!isTidemarkError(error)) return error;
  return new NbdError(error.code === 'storage-full' ? 'ENOSPC' : 'EIO', error.message);
}
