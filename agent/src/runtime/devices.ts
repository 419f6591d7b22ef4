/** Disks that an agent reads or serves: raw files, and exports of other NBD servers that are opened again when lost. */
import type { Clock } from '../core/clock.js';
import { Mutex } from '../core/mutex.js';
import { NbdError, type Extent } from '../nbd/backend.js';
import type { BlockDevice } from '../nbd/block-device.js';
import { FileBlockDevice } from '../nbd/file-block-device.js';
import { openNbd, type NbdBlockDevice } from '../nbd/nbd-block-device.js';
import type { TlsMaterial } from './tls-files.js';

export interface DeviceOptions {
  readonly clock: Clock;
  /** For nbds URIs; asked at each connection, so that renewed certificates count. */
  readonly tls: () => TlsMaterial;
}

/** `location`: a path or an NBD URI. Throws what the file or the server says. */
export async function openDevice(
  location: string,
  access: 'read' | 'write',
  options: DeviceOptions,
): Promise<BlockDevice> {
  if (location.startsWith('/')) return FileBlockDevice.open(location, { readOnly: access === 'read' });
  const connect = (): Promise<NbdBlockDevice> => {
    const { certificate, key, authority } = options.tls();
    return openNbd(location, { clock: options.clock, tls: { ca: authority, cert: certificate, key } });
  };
  return new UpstreamDevice(await connect(), connect);
}

/**
 * An upstream export that comes back: what was under way when the connection broke fails, the next call connects again.
 * A server that died may have lost what it had not flushed, so the first flush after a new connection fails when there
 * were writes since the last one, as fsync does after a lost write.
 */
class UpstreamDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly minimumBlockBytes: number;
  private current: NbdBlockDevice | undefined;
  private readonly lock = new Mutex();
  private unflushed = false;
  private lost = false;
  private closed = false;

  constructor(
    first: NbdBlockDevice,
    private readonly connect: () => Promise<NbdBlockDevice>,
  ) {
    this.sizeBytes = first.sizeBytes;
    this.readOnly = first.readOnly;
    this.minimumBlockBytes = first.minimumBlockBytes;
    this.use(first);
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    await (await this.device()).read(target, offsetBytes);
  }

  async write(bytes: Uint8Array, offsetBytes: number, fua?: boolean): Promise<void> {
    this.unflushed = true;
    await (await this.device()).write(bytes, offsetBytes, fua);
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.unflushed = true;
    await (await this.device()).zero(offsetBytes, lengthBytes);
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    await (await this.device()).trim(offsetBytes, lengthBytes);
  }

  async flush(): Promise<void> {
    const device = await this.device();
    const { lost } = this;
    this.lost = false;
    this.unflushed = false;
    await device.flush();
    if (lost) throw new NbdError('EIO', 'The upstream server came back; what it had not flushed may be lost.');
  }

  async extents(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    return (await this.device()).extents(offsetBytes, lengthBytes);
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.current?.close();
  }

  private use(device: NbdBlockDevice): NbdBlockDevice {
    this.current = device;
    void device.closed.then(() => {
      if (this.current !== device) return;
      this.current = undefined;
      this.lost ||= this.unflushed;
    });
    return device;
  }

  private device(): NbdBlockDevice | Promise<NbdBlockDevice> {
    if (this.current !== undefined) return this.current;
    return this.lock.run(async () => {
      if (this.current !== undefined) return this.current;
      if (this.closed) throw new NbdError('ESHUTDOWN', 'The disk is closed.');
      const device = await this.connect().catch((error: unknown) => {
        throw new NbdError('EIO', (error as Error).message);
      });
      if (device.sizeBytes >= this.sizeBytes) return this.use(device);
      await device.close();
      throw new NbdError('EIO', 'The upstream export came back smaller than it was.');
    });
  }
}
