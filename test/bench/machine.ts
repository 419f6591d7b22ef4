/** The machine that a report is of. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { repositoryRoot } from '../support/paths.js';

export interface Machine {
  readonly processor: string;
  readonly coreCount: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly fileSystem: string;
  readonly node: string;
  readonly commit: string;
  /** Of the last minute, when the run began. */
  readonly loadAverage: number;
}

export function describeMachine(directory: string): Machine {
  return {
    processor: cpus()[0]?.model.trim() ?? 'unknown processor',
    coreCount: cpus().length,
    memoryBytes: totalmem(),
    kernel: release(),
    fileSystem: said('stat', ['-f', '-c', '%T', directory]),
    node: process.versions.node,
    commit: said('git', ['-C', repositoryRoot(), 'describe', '--always', '--dirty']),
    loadAverage: loadavg()[0] ?? 0,
  };
}

function said(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return 'unknown';
  }
}

/** Seconds that all cores together were idle (waiting for the disk counts as idle) and in all, since boot. */
export function processorSeconds(): { readonly idle: number; readonly total: number } {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
  const total = fields.reduce((sum, ticks) => sum + ticks, 0);
  return { idle: (fields[3]! + fields[4]!) / 100, total: total / 100 };
}
