/** The thread that acknowledges guests' writes has precedence; the agent's other threads, and agents without guests, do not. */
import { expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { ZstdThread } from '../../agent/src/runtime/zstd-thread.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair } from '../support/pair.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

/** Field 19 of proc(5) stat, by thread id. */
function nices(pid: number): Map<number, number> {
  return new Map(
    readdirSync(`/proc/${pid}/task`).map((thread) => {
      const text = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
      return [Number(thread), Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[16])];
    }),
  );
}

const root = process.getuid?.() === 0;
if (!root) console.warn('priority.test: needs root, to raise a priority');
(root ? test : test.skip)(
  'a source raises its main thread only, a target nothing',
  async () => {
    await using lab = await Laboratory.open();
    const sizeBytes = 1024 * 1024;
    const file = makeSparseFile(lab.path('disk.raw'), sizeBytes);
    const { source, target } = await startPair(lab, { disks: [{ name: 'data', sizeBytes, file }] });
    const others = () => [...nices(source.pid)].filter(([thread]) => thread !== source.pid);
    await waitFor('the source has precedence', () => nices(source.pid).get(source.pid) === -10);
    expect(others().length).toBeGreaterThan(3);
    await waitFor('all others are as they were', () => others().every(([, nice]) => nice === 0));
    expect([...nices(target.pid).values()].filter((nice) => nice !== 0)).toEqual([]);
  },
  60_000,
);

(root ? test : test.skip)('a thread that the raised main thread starts steps back', async () => {
  await readFile('/proc/self/stat'); // libuv's own threads run from now on
  const before = new Set(nices(process.pid).keys());
  const compressor = new ZstdThread();
  setPriority(-10);
  try {
    await compressor.compress(new Uint8Array(1024), 1);
    const started = [...nices(process.pid)].filter(([thread]) => !before.has(thread));
    expect(started.map(([, nice]) => nice)).toEqual([0]);
  } finally {
    setPriority(0);
    await compressor.close();
  }
});
