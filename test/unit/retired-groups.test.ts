/** Groups that are set aside: why, how long, and back again. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { RetiredGroups } from '../../agent/src/runtime/retired-groups.js';
import { targetGroupSpecSchema } from '../../agent/src/service/group-spec.js';

const policy = {
  spec: targetGroupSpecSchema.parse({
    streams: ['ams-1'],
    disks: [{ name: 'data', sizeBytes: 4096, stream: 'ams-1' }],
  }),
  policyRevision: 3,
  owner: 'stack#1',
};

let directory: string;
let retired: RetiredGroups;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-retired-'));
  retired = new RetiredGroups(new NodeStorage(), directory);
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

async function retire(why: 'removed' | 'reversed', untilMs: number): Promise<void> {
  mkdirSync(join(directory, 'shop'));
  await retired.note('shop', policy, why);
  await retired.add('shop', untilMs);
}

test('a history that a reversal closed is told from a removed group', async () => {
  await retire('reversed', 2000);
  await retire('removed', 1000);
  expect(await retired.list()).toEqual([
    { name: 'shop', why: 'reversed', untilMs: 2000, policy },
    { name: 'shop', why: 'removed', untilMs: 1000, policy },
  ]);
  await retired.restore((await retired.list())[1]!);
  expect(readdirSync(directory).sort()).toEqual(['.retired', 'shop']);
  expect(await retired.purge(2000)).toEqual(['shop']);
  expect(await retired.list()).toEqual([]);
});

test('notes of earlier versions, and no note at all, are of removed groups', async () => {
  for (const [untilMs, note] of [
    [3000, JSON.stringify({ policy })],
    [2000, 'damaged'],
  ] as const) {
    mkdirSync(join(directory, '.retired', `${untilMs}-shop`), { recursive: true });
    writeFileSync(join(directory, '.retired', `${untilMs}-shop`, 'retired.json'), note);
  }
  mkdirSync(join(directory, '.retired', '1000-shop'));
  expect((await retired.list()).map((each) => [each.why, each.policy?.policyRevision])).toEqual([
    ['removed', 3],
    ['removed', undefined],
    ['removed', undefined],
  ]);
});

test('disks that a commit made stay when the history goes, and the group is listed no more', async () => {
  await retire('removed', 1000);
  const kept = join(directory, '.retired', '1000-shop');
  writeFileSync(join(kept, 'manifest-current'), 'history');
  mkdirSync(join(kept, 'committed'));
  writeFileSync(join(kept, 'committed', 'data.raw'), 'in use');
  expect(await retired.purge(2000)).toEqual(['shop']);
  expect(readdirSync(kept)).toEqual(['committed']);
  expect(readdirSync(join(kept, 'committed'))).toEqual(['data.raw']);
  expect([await retired.list(), await retired.purge(3000)]).toEqual([[], []]);
});
