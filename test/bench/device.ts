/**
 * Bytes that the block device below a path wrote since the machine's start, of all programs. The kernel's count by process
 * (/proc/PID/io) is none of what reaches the device: a page cache of large folios counts a whole folio for every write of a
 * few KiB into it (measured: 16 times), and writes its dirty blocks only.
 */
import { readFileSync, statSync } from 'node:fs';

const sectorBytes = 512;

export function deviceWriteBytes(path: string): number {
  const { dev } = statSync(path, { bigint: true });
  // As glibc's major() and minor().
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  const fields = readFileSync(`/sys/dev/block/${major}:${minor}/stat`, 'utf8').trim().split(/\s+/);
  return Number(fields[6]) * sectorBytes;
}
