/** What a process used until now, from /proc. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

export interface ProcessUsage {
  readonly cpuSeconds: number;
  /** CPU seconds by thread name; threads of one name are summed. */
  readonly threadCpuSeconds: Readonly<Record<string, number>>;
  readonly residentBytes: number;
  readonly residentBytesPeak: number;
  /** Given to the kernel by write calls (files, sockets), and sent to block devices. */
  readonly writeCallBytes: number;
  readonly diskWriteBytes: number;
}

/** Ticks of utime and stime; 100 a second on every Linux that matters. */
const ticksPerSecond = 100;

export function readUsage(pid: number): ProcessUsage {
  const threadCpuSeconds: Record<string, number> = {};
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      const [name, seconds] = parseStat(readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8'));
      threadCpuSeconds[name] = (threadCpuSeconds[name] ?? 0) + seconds;
    } catch {
      // The thread ended between the two calls.
    }
  }
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const io = readFileSync(`/proc/${pid}/io`, 'utf8');
  return {
    cpuSeconds: parseStat(readFileSync(`/proc/${pid}/stat`, 'utf8'))[1],
    threadCpuSeconds,
    residentBytes: kibibytes(status, 'VmRSS'),
    residentBytesPeak: kibibytes(status, 'VmHWM'),
    writeCallBytes: field(io, /^wchar: (\d+)/m),
    diskWriteBytes: field(io, /^write_bytes: (\d+)/m),
  };
}

/** Makes the kernel count the peak of resident memory anew. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

function parseStat(text: string): [name: string, cpuSeconds: number] {
  const end = text.lastIndexOf(')');
  const fields = text.slice(end + 2).split(' ');
  return [text.slice(text.indexOf('(') + 1, end), (Number(fields[11]) + Number(fields[12])) / ticksPerSecond];
}

function kibibytes(status: string, name: string): number {
  return field(status, new RegExp(`^${name}:\\s+(\\d+) kB`, 'm')) * 1024;
}

function field(text: string, pattern: RegExp): number {
  return Number(pattern.exec(text)?.[1] ?? Number.NaN);
}
