/** The thread that acknowledges does no synchronous I/O: who calls a function of node:fs that waits is listed here. */
import { expect, test } from '@jest/globals';
import { globSync, readFileSync } from 'node:fs';

/** Each with why it may wait. */
const allowed = new Map([
  ['agent/src/control/catalogue/database.ts', 'runs on a worker thread'],
  ['agent/src/control/generate-docs.ts', 'a tool'],
  ['agent/src/control/pages.ts', 'a tool'],
  ['agent/src/control/log-writer.ts', 'flushNow, in a process that ends'],
  ['agent/src/pki/directory.ts', 'commands of the command line'],
  ['agent/src/runtime/agent-metrics.ts', '/proc/self/io, which is no disk'],
]);
const waits = /\b(?:fs\.)?(?!\w*(?:zstd|gzip|hkdf|scrypt|delta)\w*Sync)[a-zA-Z]+Sync\(|DatabaseSync/;

test('no file of the agent waits for a disk', () => {
  const found = globSync('agent/src/**/*.ts')
    .filter((path) => !path.startsWith('agent/src/cli/'))
    .filter((path) => waits.test(readFileSync(path, 'utf8').replaceAll(/new (?:Delta|Catalogue)Sync\(/g, '')));
  expect(found.sort()).toEqual([...allowed.keys()].sort());
});
