/** The thread that acknowledges guests' writes has precedence; the agent's other threads, and agents without guests, do not. */
import { expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
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
    await waitFor('the source has precedence', () => nices(source.pid).get(source.pid) === -10);
    const others = [...nices(source.pid)].filter(([thread]) => thread !== source.pid);
    expect(others.length).toBeGreaterThan(3);
    expect(others.filter(([, nice]) => nice !== 0)).toEqual([]);
    expect([...nices(target.pid).values()].filter((nice) => nice !== 0)).toEqual([]);
  },
  60_000,
);
