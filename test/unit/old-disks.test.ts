import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import type { RecoveryDriver } from '../../agent/src/recovery/driver.js';
import { OldDisks, type OldDisk } from '../../agent/src/runtime/old-disks.js';

let directory: string;
let definition: string | undefined;
let isDown: boolean;
let seeding: boolean;
let events: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-old-'));
  [definition, isDown, seeding, events] = [undefined, false, false, []];
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function open(): OldDisks {
  const driver = {
    state: () => {
      if (isDown) return Promise.reject(new TidemarkError('hypervisor-unreachable', 'down'));
      return Promise.resolve(definition === undefined ? 'absent' : 'off');
    },
    definition: () => Promise.resolve(definition),
  } as unknown as RecoveryDriver;
  return new OldDisks({
    ...{ storage: new NodeStorage(), directory, driver: () => driver, isSeed: () => seeding },
    events: { emit: (code) => void events.push(code) },
  });
}

function disk(name: string, untilMs: number, path = join(directory, 'shop', 'a1', 'disks', name)): OldDisk {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, name);
  return { group: 'shop', path, untilMs, vms: [{ hypervisor: 'local', uuid: 'u' }] };
}

test('go when their time has passed, after a restart too; the rest of that failover goes with the last', async () => {
  const [early, late] = [disk('vda.raw', 10), disk('vdb.raw', 20)];
  mkdirSync(join(directory, 'shop', 'a1', 'u'));
  await open().add([early, late]);
  await open().purge(9);
  expect(existsSync(early.path)).toBe(true);
  await open().purge(15);
  expect([existsSync(early.path), existsSync(late.path)]).toEqual([false, true]);
  await open().purge(25);
  expect(existsSync(join(directory, 'shop', 'a1'))).toBe(false);
  expect(existsSync(join(directory, 'shop'))).toBe(true);
  expect(events).toEqual(['old-disk-deleted', 'old-disk-deleted']);
});

test('stay while a VM has them, a replica is made from them, or nobody can tell', async () => {
  const kept = disk('vda.raw', 10);
  await open().add([kept]);
  definition = `<source file='${kept.path}'/>`;
  await open().purge(99);
  definition = undefined;
  seeding = true;
  await open().purge(99);
  seeding = false;
  isDown = true;
  await open().purge(99);
  expect(readFileSync(kept.path, 'utf8')).toBe('vda.raw');
  expect(events).toEqual(['old-disks-kept']);
  isDown = false;
  await open().keep(kept.path);
  await open().purge(99);
  expect(existsSync(kept.path)).toBe(true);
});

test("a person's own disks are never taken up, however they are named; a damaged list deletes nothing", async () => {
  const theirs = disk('mine.raw', 0, join(directory, 'elsewhere.raw'));
  await open().add([theirs, { ...theirs, path: `${directory}/shop/../elsewhere.raw` }]);
  await open().purge(99);
  expect(existsSync(theirs.path)).toBe(true);
  const ours = disk('vda.raw', 0);
  await open().add([ours]);
  writeFileSync(join(directory, 'old-disks.json'), '{"version":1,"disks":[{');
  await open().purge(99);
  expect(existsSync(ours.path)).toBe(true);
  expect(events).toEqual(['old-disks-kept']);
});
