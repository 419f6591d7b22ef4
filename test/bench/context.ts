/** What every benchmark gets: the sizes of this run, where to say how far it is, and what memory the agents took. */
import type { AgentHandle } from '../support/agent-handle.js';
import type { Pair } from '../support/pair.js';
import { readUsage } from '../support/process-usage.js';
import type { Plan } from './plan.js';
import type { Section } from './report.js';

export interface MemoryPeak {
  readonly phase: string;
  readonly agent: string;
  readonly residentBytes: number;
  readonly bufferBytes: number;
}

/** Two agents and the status of their group at both. */
export type WatchedPair = Pick<Pair, 'source' | 'target' | 'group' | 'sourceStatus' | 'targetStatus'>;

export interface BenchContext {
  readonly plan: Plan;
  readonly say: (line: string) => void;
  /** Filled by the benchmarks, shown by the memory section. */
  readonly memory: MemoryPeak[];
  /** Checkpoint marks at full load; filled by the sustained run. */
  readonly marks: MarkTimes[];
}

export interface MarkTimes {
  readonly phase: string;
  readonly count: number;
  readonly markP99Us: number;
  readonly latenessP99Us: number;
}

export interface Benchmark {
  /** For `--only`. */
  readonly name: string;
  run(context: BenchContext): Promise<Section>;
}

/** What a target holds at most of what it received and has not written (`ingestBytesMax` in target/group.ts). */
const ingestBytes = 32 * 1024 * 1024;

export function noteMemory(context: BenchContext, phase: string, agent: AgentHandle, bufferBytes: number): void {
  const { residentBytesPeak } = readUsage(agent.pid);
  context.memory.push({ phase, agent: agent.name, residentBytes: residentBytesPeak, bufferBytes });
}

export function notePairMemory(context: BenchContext, phase: string, pair: WatchedPair, bufferBytes: number): void {
  noteMemory(context, phase, pair.source, bufferBytes);
  noteMemory(context, phase, pair.target, ingestBytes);
}
