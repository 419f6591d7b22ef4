/** An export of another NBD server as a BlockDevice. */
import type { BlockDevice } from './block-device.js';
import type { Extent } from './backend.js';
import { NbdClient, type NbdClientOptions } from './client.js';

export class NbdBlockDevice implements BlockDevice {
  readonly #client: NbdClient;

  constructor(client: NbdClient) {
    this.#client = client;
  }

  get sizeBytes(): number {
    return this.#client.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#client.readOnly;
  }

  get minimumBlockBytes(): number {
    return this.#client.info.minimumBlockBytes;
  }

  /** Resolves when the connection is over, with why. */
  get closed(): Promise<string> {
    return this.#client.closed;
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    return this.#client.read(target, offsetBytes);
  }

  write(bytes: Uint8Array, offsetBytes: number, fua = false): Promise<void> {
    return this.#client.write(bytes, offsetBytes, fua);
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#client.zero(offsetBytes, lengthBytes);
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#client.trim(offsetBytes, lengthBytes);
  }

  flush(): Promise<void> {
    return this.#client.flush();
  }

  extents(offsetBytes: number, lengthBytes: number): Promise<Extent[]> {
    return this.#client.extents(offsetBytes, lengthBytes);
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

/** Opens `nbd+unix:///EXPORT?socket=PATH`, `nbd://HOST/EXPORT` or `nbds://…`; errors: NbdClient.open. */
export async function openNbd(uri: string, options: NbdClientOptions): Promise<NbdBlockDevice> {
  return new NbdBlockDevice(await NbdClient.open(uri, options));
}
