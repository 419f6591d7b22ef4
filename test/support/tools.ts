/** The peers' programs: fio, qemu-nbd, nbdkit, qemu-io, nbdcopy. */
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import type { ManagedProcess, Processes } from './processes.js';
import { waitFor } from './wait.js';

export interface FioJob {
  /** NBD URI (nbd engine) or a file (with `engine`). */
  readonly target: string;
  readonly operation: 'write' | 'randwrite' | 'read' | 'randread' | 'randrw';
  readonly blockBytes: number;
  readonly queueDepth: number;
  /** Region of the disk that is used. */
  readonly sizeBytes: number;
  readonly offsetBytes?: number;
  /** Ends after so many bytes; default: `sizeBytes`. May be more than sizeBytes. */
  readonly totalBytes?: number;
  /** Runs so long whatever the bytes. */
  readonly runtimeSeconds?: number;
  /** Ends then although bytes are left. */
  readonly runtimeSecondsMax?: number;
  readonly rateBytesPerSecond?: number;
  /** Share of a block that compresses away, 0…100. Default 0: incompressible. */
  readonly compressiblePercent?: number;
  /** Default `nbd`. */
  readonly engine?: string;
  readonly randomSeed?: number;
  readonly jobCount?: number;
  readonly extra?: readonly string[];
}

/** Of all jobs together. */
export interface FioSide {
  readonly bytes: number;
  readonly operations: number;
  readonly durationMs: number;
  readonly bytesPerSecond: number;
  readonly operationsPerSecond: number;
  /** Completion latency in microseconds. */
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

export interface FioResult {
  readonly read: FioSide;
  readonly write: FioSide;
}

export function fioArguments(job: FioJob): string[] {
  const engine = job.engine ?? 'nbd';
  return [
    '--name=job',
    '--output-format=json',
    `--ioengine=${engine}`,
    engine === 'nbd' ? `--uri=${job.target}` : `--filename=${job.target}`,
    `--rw=${job.operation}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.queueDepth}`,
    `--size=${job.sizeBytes}`,
    `--offset=${job.offsetBytes ?? 0}`,
    ...(job.totalBytes === undefined ? [] : [`--io_size=${job.totalBytes}`]),
    ...(job.runtimeSeconds === undefined ? [] : ['--time_based=1', `--runtime=${job.runtimeSeconds}`]),
    ...(job.runtimeSecondsMax === undefined ? [] : [`--runtime=${job.runtimeSecondsMax}`]),
    ...(job.rateBytesPerSecond === undefined ? [] : [`--rate=${Math.round(job.rateBytesPerSecond)}`]),
    // A fresh payload for each write: the same bytes again would be found by nobody here, but by a real disk's cache.
    ...(job.compressiblePercent ? [`--buffer_compress_percentage=${job.compressiblePercent}`] : []),
    '--refill_buffers=1',
    '--norandommap=1',
    `--randseed=${job.randomSeed ?? 1}`,
    `--numjobs=${job.jobCount ?? 1}`,
    '--group_reporting=1',
    '--fsync_on_close=0',
    ...(job.extra ?? []),
  ];
}

/** Runs to the end; throws on any I/O error. */
export async function runFio(processes: Processes, job: FioJob, timeoutMs = 600_000): Promise<FioResult> {
  const text = await processes.run('fio', fioArguments(job), { timeoutMs });
  return parseFio(text)[0]!;
}

/** The jobs of what fio printed as JSON; throws when one had an error. */
export function parseFio(text: string): FioResult[] {
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: Record<string, unknown>[] };
  return jobs.map((job) => {
    if (job['error'] !== 0) throw new Error(`fio ended with error ${String(job['error'])}`);
    return { read: side(job['read']), write: side(job['write']) };
  });
}

function side(value: unknown): FioSide {
  const from = value as Record<string, number> & { clat_ns: Record<string, number> };
  const percentile = (from.clat_ns['percentile'] ?? {}) as unknown as Record<string, number>;
  const us = (ns: number | undefined): number => (ns ?? 0) / 1000;
  return {
    bytes: from['io_bytes']!,
    operations: from['total_ios']!,
    durationMs: from['runtime']!,
    bytesPerSecond: from['bw_bytes']!,
    operationsPerSecond: from['iops']!,
    meanUs: us(from.clat_ns['mean']),
    p50Us: us(percentile['50.000000']),
    p99Us: us(percentile['99.000000']),
    p999Us: us(percentile['99.900000']),
    maxUs: us(from.clat_ns['max']),
  };
}

export interface NbdServer {
  readonly process: ManagedProcess;
  readonly uri: string;
}

/** qemu-nbd on a raw file, cache=writeback unless said otherwise. */
export async function startQemuNbd(
  processes: Processes,
  options: { name: string; file: string; socket: string; readOnly?: boolean; cache?: string },
): Promise<NbdServer> {
  const child = processes.start(options.name, 'qemu-nbd', [
    ...['--format=raw', `--cache=${options.cache ?? 'writeback'}`, '--persistent', '--shared=8'],
    ...(options.readOnly === true ? ['--read-only'] : []),
    `--socket=${options.socket}`,
    options.file,
  ]);
  return ready(child, options.socket);
}

/** nbdkit's memory plugin: what the protocol costs without a disk. */
export async function startNbdkitMemory(
  processes: Processes,
  options: { name: string; sizeBytes: number; socket: string },
): Promise<NbdServer> {
  const args = ['--foreground', '--exit-with-parent', '-U', options.socket, 'memory', `size=${options.sizeBytes}`];
  return ready(processes.start(options.name, 'nbdkit', args), options.socket);
}

async function ready(child: ManagedProcess, socket: string): Promise<NbdServer> {
  await waitFor(`socket of ${child.name}`, () => {
    child.failIfExited();
    return existsSync(socket);
  });
  return { process: child, uri: `nbd+unix:///?socket=${socket}` };
}

/** Runs qemu-io commands, e.g. `write -P 0x41 0 4k`, against an NBD URI or a raw file; returns what it printed. */
export async function runQemuIo(processes: Processes, target: string, commands: readonly string[]): Promise<string> {
  const output = await processes.run('qemu-io', ['-f', 'raw', ...commands.flatMap((each) => ['-c', each]), target]);
  // qemu-io ends with 0 although a pattern did not fit.
  if (/verification failed|failed:/.test(output)) throw new Error(`qemu-io ${commands.join('; ')}: ${output.trim()}`);
  return output;
}

/** Copies NBD URI or file to NBD URI or file. */
export async function runNbdcopy(processes: Processes, from: string, to: string): Promise<void> {
  await processes.run('nbdcopy', ['--', from, to], { timeoutMs: 600_000 });
}

/** An empty sparse file of that size. */
export function makeSparseFile(file: string, sizeBytes: number): string {
  writeFileSync(file, '');
  truncateSync(file, sizeBytes);
  return file;
}
