/**
 * The export that a hypervisor mirrors a disk into: everything is acknowledged from memory, once it has its sequence.
 * The guest's own disk stays where it was; reads are served only when a reader for it is configured.
 */
import { RecordKind } from '../block/record.js';
import { NbdError, type ExportBackend, type Extent } from '../nbd/backend.js';
import type { Payload } from '../nbd/payload.js';
import type { SourceGroup } from './source-group.js';

export class MirrorExport implements ExportBackend {
  readonly readOnly = false;
  readonly minimumBlockBytes = 1;
  readonly preferredBlockBytes = 65_536;
  private readonly group: SourceGroup;
  private readonly disk: number;
  private readonly onClients: ((count: number) => void) | undefined;
  private clientCount = 0;

  /** `onClients`: told how many clients are connected, for attach states. */
  constructor(group: SourceGroup, disk: number, onClients?: (count: number) => void) {
    this.group = group;
    this.disk = disk;
    this.onClients = onClients;
  }

  /** Of the disk now; a client sees it from its next connection on. */
  get sizeBytes(): number {
    return this.group.disks[this.disk]?.sizeBytes ?? 0;
  }

  get guardGroup(): string {
    return this.group.name;
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    const reader = this.group.disks[this.disk]?.reader;
    if (reader === undefined)
      return Promise.reject(new NbdError('ENOTSUP', 'This mirror export has no readable source.'));
    return reader.read(target, offsetBytes);
  }

  write(offsetBytes: number, payload: Payload): Promise<void> | undefined {
    const { disk } = this;
    return this.group.capture({
      disk,
      kind: RecordKind.write,
      offsetBytes,
      lengthBytes: payload.bytes.length,
      payload,
    });
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> | undefined {
    return this.group.capture({ disk: this.disk, kind: RecordKind.zero, offsetBytes, lengthBytes });
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> | undefined {
    return this.group.capture({ disk: this.disk, kind: RecordKind.discard, offsetBytes, lengthBytes });
  }

  /** What was acknowledged is in the agent's memory and on the guest's own disk, whose flush is the hypervisor's. */
  flush(): undefined {
    return undefined;
  }

  async extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<Extent[]> {
    const reader = this.group.disks[this.disk]?.reader;
    if (reader?.extents !== undefined) return reader.extents(offsetBytes, lengthBytes, countMax);
    return [{ lengthBytes, hole: false, zero: false }];
  }

  connected(): void {
    this.onClients?.(++this.clientCount);
  }

  disconnected(): void {
    this.onClients?.(--this.clientCount);
  }
}
