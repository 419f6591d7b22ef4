/** A raw file or a block device of this host as a BlockDevice. */
import { close, constants, fdatasync, fstat, open, read, write, type Stats } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { BlockDevice } from './block-device.js';
import { NbdError } from './backend.js';

const openFile = promisify(open);
const statFile = promisify(fstat) as (fd: number) => Promise<Stats>;
const sync = promisify(fdatasync);
const closeFile = promisify(close);

const zeroStepBytes = 1024 * 1024;
const zeros = Buffer.alloc(zeroStepBytes);

/** Failures are NbdError: EIO, ENOSPC (disk full), EPERM (read only). */
export class FileBlockDevice implements BlockDevice {
  readonly minimumBlockBytes = 1;
  readonly #fd: number;
  /** The file is one hole and nothing was written by us: its zeros need not be written. */
  #untouched: boolean;
  #closing: Promise<void> | undefined;

  private constructor(
    fd: number,
    readonly sizeBytes: number,
    readonly readOnly: boolean,
    untouched: boolean,
  ) {
    this.#fd = fd;
    this.#untouched = untouched;
  }

  /** The file must exist; its size is the device's for as long as it is open. Throws the error of the system. */
  static async open(path: string, options: { readonly readOnly?: boolean } = {}): Promise<FileBlockDevice> {
    const readOnly = options.readOnly ?? false;
    const fd = await openFile(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
    try {
      const stats = await statFile(fd);
      if (!stats.isFile() && !stats.isBlockDevice()) throw new Error(`${path} is neither a file nor a block device`);
      const sizeBytes = stats.isFile() ? stats.size : await blockDeviceBytes(stats);
      return new FileBlockDevice(fd, sizeBytes, readOnly, stats.isFile() && stats.blocks === 0);
    } catch (error) {
      await closeFile(fd);
      throw error;
    }
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const step = (done: number): void => {
        read(this.#fd, target, done, target.length - done, offsetBytes + done, (error, count) => {
          if (error !== null) reject(mapError(error));
          else if (done + count === target.length) resolve();
          else if (count === 0) reject(new NbdError('EIO', 'The file is shorter than when it was opened.'));
          else step(done + count);
        });
      };
      step(0);
    });
  }

  async write(bytes: Uint8Array, offsetBytes: number, fua = false): Promise<void> {
    this.#untouched = false;
    await this.#writeAll(bytes, offsetBytes);
    if (fua) await this.flush();
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (this.#untouched) return;
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += zeroStepBytes) {
      await this.#writeAll(zeros.subarray(0, Math.min(zeroStepBytes, end - at)), at);
    }
  }

  /** Node can make no hole in a file: the hint is not taken. */
  trim(_offsetBytes: number, _lengthBytes: number): Promise<void> {
    return Promise.resolve();
  }

  async flush(): Promise<void> {
    await sync(this.#fd).catch((error: unknown) => Promise.reject(mapError(error as Error)));
  }

  close(): Promise<void> {
    return (this.#closing ??= closeFile(this.#fd));
  }

  #writeAll(bytes: Uint8Array, offsetBytes: number): Promise<void> {
    if (this.readOnly) return Promise.reject(new NbdError('EPERM', 'The disk was opened read only.'));
    if (offsetBytes + bytes.length > this.sizeBytes) {
      return Promise.reject(new NbdError('ENOSPC', 'The range ends behind the disk.'));
    }
    return new Promise((resolve, reject) => {
      const step = (done: number): void => {
        write(this.#fd, bytes, done, bytes.length - done, offsetBytes + done, (error, count) => {
          if (error !== null) reject(mapError(error));
          else if (done + count === bytes.length) resolve();
          else step(done + count);
        });
      };
      step(0);
    });
  }
}

function mapError(error: NodeJS.ErrnoException): NbdError {
  const full = error.code === 'ENOSPC' || error.code === 'EDQUOT';
  return new NbdError(full ? 'ENOSPC' : 'EIO', error.message);
}

/** stat knows no size of a block device; the kernel tells it in sectors of 512 bytes. */
async function blockDeviceBytes(stats: Stats): Promise<number> {
  // glibc's layout of a device number.
  const device = BigInt(stats.rdev);
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn);
  return Number(await readFile(`/sys/dev/block/${String(major)}:${String(minor)}/size`, 'utf8')) * 512;
}
