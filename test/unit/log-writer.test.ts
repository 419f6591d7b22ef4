import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LogWriter } from '../../agent/src/control/log-writer.js';
import { waitFor } from '../support/wait.js';

let directory: string;
let fd: number;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-log-'));
});
afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

describe('log writer', () => {
  test('keeps the order; flush waits for the last line', async () => {
    const file = join(directory, 'log');
    fd = openSync(file, 'w');
    const writer = new LogWriter(fd);
    const lines = Array.from({ length: 5000 }, (_, index) => `line ${index}\n`);
    for (const line of lines) writer.write(line);
    await writer.flush(5000);
    expect(readFileSync(file, 'utf8')).toBe(lines.join(''));
    writer.write('the last\n');
    writer.flushNow();
    expect(readFileSync(file, 'utf8').endsWith('the last\n')).toBe(true);
  });

  test.each([
    ['blocks', 0],
    ['does not block', constants.O_NONBLOCK],
  ])(
    'a pipe that nobody reads and that %s: no call waits, what is over the bound is dropped and told',
    async (_, flag) => {
      const fifo = join(directory, 'fifo');
      execFileSync('mkfifo', [fifo]);
      // Open for both, so that neither side waits for the other.
      fd = openSync(fifo, constants.O_RDWR | flag);
      const writer = new LogWriter(fd);
      const line = `${'x'.repeat(1023)}\n`;
      const startMs = performance.now();
      for (let count = 0; count < 8192; count++) writer.write(line);
      expect(performance.now() - startMs).toBeLessThan(1000);
      await writer.flush(50);

      const reader = spawn('cat', [fifo], { stdio: ['ignore', 'pipe', 'inherit'] });
      try {
        let text = '';
        reader.stdout.setEncoding('utf8').on('data', (part: string) => (text += part));
        await waitFor('the drop is told', () => text.includes('log-lines-dropped'));
        await writer.flush(5000);
        expect(text).toContain('"count":');
      } finally {
        reader.kill();
      }
    },
  );
});
