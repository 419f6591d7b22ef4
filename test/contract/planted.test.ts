import { afterEach, expect, test } from '@jest/globals';
import { build } from 'esbuild';
import type * as planted from '../../agent/src/core/planted.js';
import { isPlanted, plant, uprootAll } from '../../agent/src/core/planted.js';

afterEach(uprootAll);

test('a planted bug is on until it is uprooted, and only that one', () => {
  expect(isPlanted('reused-sequence')).toBe(false);
  plant('reused-sequence');
  expect([isPlanted('reused-sequence'), isPlanted('torn-tail-kept')]).toEqual([true, false]);
  uprootAll();
  expect(isPlanted('reused-sequence')).toBe(false);
});

test("nothing can be planted in the agent's bundle", async () => {
  const result = await build({
    entryPoints: ['agent/src/core/planted.ts'],
    absWorkingDir: process.cwd(),
    bundle: true,
    format: 'esm',
    write: false,
    define: { __TIDEMARK_PLANTED__: 'false' },
  });
  const source = Buffer.from(result.outputFiles[0]!.text).toString('base64');
  const bundled = (await import(`data:text/javascript;base64,${source}`)) as typeof planted;
  expect(() => bundled.plant('reused-sequence')).toThrow('cannot be planted');
  expect(bundled.isPlanted('reused-sequence')).toBe(false);
});
