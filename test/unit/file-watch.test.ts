/** Firmware variables that change beside a running VM: on a clock of the test's own, a real file. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FileWatch } from '../../agent/src/hypervisor/file-watch.js';
import { TidemarkError } from '../../agent/src/core/errors.js';
import type { Clock } from '../../agent/src/core/clock.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { waitFor } from '../support/wait.js';

let directory: string;
let file: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-'));
  file = join(directory, 'vars.fd');
});
afterEach(() => rmSync(directory, { recursive: true }));

const readNow = (): Promise<string> => {
  try {
    return Promise.resolve(readFileSync(file, 'utf8'));
  } catch (cause) {
    return Promise.reject(new TidemarkError('storage-io', 'gone', { cause }));
  }
};

describe('files beside a VM', () => {
  test('what they hold is told after each change, also when the file is replaced or was missing', async () => {
    const told: string[] = [];
    const watch = new FileWatch({ files: [file], clock: nodeClock, read: readNow, tell: (text) => told.push(text) });
    try {
      for (const step of ['first', 'written', 'renamed', 'again'] as const) {
        if (step === 'renamed') {
          writeFileSync(`${file}.new`, step);
          renameSync(`${file}.new`, file);
        } else {
          if (step === 'again') rmSync(file);
          writeFileSync(file, step);
        }
        await waitFor(step, () => told.at(-1) === step);
      }
    } finally {
      watch.stop();
    }
  });

  test('changes without end are read 64 times in a row, then once in 30 s; the last one is never left out', async () => {
    let [nowMs, reads] = [0, 0];
    let told = '';
    // Each look is a turn of the test's: time is what the watch waited.
    const clock: Clock = {
      ...nodeClock,
      monotonicMs: () => nowMs,
      after: (delayMs, fire) => {
        nowMs += delayMs;
        if (nowMs < 120_000) writeFileSync(file, `${nowMs}`.padStart(9));
        const handle = setImmediate(fire);
        return { cancel: () => clearImmediate(handle) };
      },
    };
    const tell = (text: string): void => {
      told = text;
      reads++;
    };
    const watch = new FileWatch({ files: [file], clock, read: readNow, tell });
    try {
      await waitFor('two minutes of changes', () => nowMs > 120_000);
      expect(reads).toBeGreaterThanOrEqual(64);
      expect(reads).toBeLessThanOrEqual(64 + 4);
      await waitFor('the last', () => told.trim() === '119800');
    } finally {
      watch.stop();
    }
  });
});
