/** Memory of each agent over the whole run, and checkpoint marks at full load: both gathered by the other benchmarks. */
import type { BenchContext } from './context.js';
import type { Section } from './report.js';
import { MiB, number, series } from './statistics.js';

/** What an agent may take besides its configured buffer. */
const allowanceBytes = 200 * MiB;

export function memorySection({ memory }: BenchContext): Section {
  const over = memory.map((peak) => (peak.residentBytes - peak.bufferBytes) / MiB);
  return {
    title: 'Memory',
    goals: [
      {
        name: 'memory over the buffer, worst agent',
        measured: series([Math.max(...over)]),
        bound: allowanceBytes / MiB,
        direction: 'at most',
        unit: 'MiB',
        hint: 'See which agent and phase in the table; take a heap snapshot there (TIDEMARK_AGENT=bundle).',
      },
    ],
    tables: [
      {
        title: 'Peak of resident memory (VmHWM), MiB',
        head: ['phase', 'agent', 'buffer', 'peak', 'above'],
        rows: memory.map((peak, index) => [
          peak.phase,
          peak.agent,
          number(peak.bufferBytes / MiB),
          number(peak.residentBytes / MiB),
          number(over[index]!),
        ]),
      },
    ],
    notes: [
      'A target’s buffer is what it may hold of what it received and has not written yet: 32 MiB a group, fixed.',
    ],
  };
}

export function marksSection({ marks }: BenchContext): Section {
  const worst = (pick: (index: number) => number): number => Math.max(...marks.map((_, index) => pick(index)));
  return {
    title: 'Checkpoint marks at full load',
    goals: [
      {
        name: 'checkpoint mark p99',
        measured: series([worst((index) => marks[index]!.markP99Us)]),
        bound: 100,
        direction: 'at most',
        unit: 'µs',
        hint: 'The mark is one synchronous function; look for allocation or encoding in it.',
      },
      {
        name: 'mark due to sequence p99',
        measured: series([worst((index) => marks[index]!.latenessP99Us / 1000)]),
        bound: 5,
        direction: 'at most',
        unit: 'ms',
        hint: 'The event loop of the source is held: find the longest turn (--cpu-prof), or a garbage collection.',
      },
    ],
    tables: [
      {
        title: 'From the agent’s own metrics',
        head: ['phase', 'marks', 'mark p99 µs', 'due to sequence p99 ms'],
        rows: marks.map((each) => [
          each.phase,
          String(each.count),
          number(each.markP99Us),
          number(each.latenessP99Us / 1000),
        ]),
      },
    ],
    notes: ['A p99 over fewer than 100 marks is their maximum.'],
  };
}
