/** Where syncs read a disk of a VM: the export of the present attachment, as long as there is one. */
import { TidemarkError } from '../core/errors.js';
import type { DiskReader } from '../link/sync-disk.js';
import type { Extent } from '../nbd/backend.js';
import type { BlockDevice } from '../nbd/block-device.js';

export class VmDiskReader implements DiskReader {
  private device: BlockDevice | undefined;

  /** Told when a sync wants to read what cannot be read. */
  onUnreadable: (() => void) | undefined;

  constructor(private readonly name: string) {}

  use(device: BlockDevice | undefined): void {
    this.device = device;
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    await this.present().read(target, offsetBytes);
  }

  async extents(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    const device = this.present();
    return device.extents === undefined
      ? [{ lengthBytes, hole: false, zero: false }]
      : device.extents(offsetBytes, lengthBytes);
  }

  private present(): BlockDevice {
    if (this.device !== undefined) return this.device;
    this.onUnreadable?.();
    throw new TidemarkError('sync-unavailable', `Disk ${this.name} is not attached: its VM cannot be read now.`);
  }
}
