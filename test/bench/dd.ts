/** What the disk itself takes: `dd` of data that does not compress, with fdatasync at the end. */
import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import type { Laboratory } from '../support/laboratory.js';
import { MiB } from './statistics.js';

export interface DiskRates {
  /** Bytes a second; through the page cache, and past it. */
  readonly fdatasync: number[];
  readonly direct: number[];
}

export async function measureDisk(lab: Laboratory, bytes: number, rates: DiskRates): Promise<void> {
  const input = lab.path('dd-input');
  const output = lab.path('dd-output');
  writeRandom(input, bytes);
  try {
    const run = async (flags: string): Promise<number> => {
      rmSync(output, { force: true });
      const command = `LC_ALL=C dd if=${input} of=${output} bs=1M ${flags} 2>&1`;
      const text = await lab.processes.run('sh', ['-c', command], { timeoutMs: 600_000 });
      const match = /^(\d+) bytes.* copied, ([\d.e+-]+) s/m.exec(text);
      if (match === null) throw new Error(`dd said ${text}`);
      return Number(match[1]) / Number(match[2]);
    };
    rates.fdatasync.push(await run('conv=fdatasync'));
    rates.direct.push(await run('conv=fdatasync oflag=direct'));
  } finally {
    rmSync(input, { force: true });
    rmSync(output, { force: true });
  }
}

export function writeRandom(file: string, bytes: number): void {
  const chunk = Buffer.allocUnsafe(4 * MiB);
  const fd = openSync(file, 'w');
  for (let done = 0; done < bytes; done += chunk.length) {
    randomFillSync(chunk);
    writeSync(fd, chunk, 0, Math.min(chunk.length, bytes - done));
  }
  closeSync(fd);
}
