/** Source groups of the API beside a reversal: which of the two says what is captured, and what a removal takes away. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { agentConfigSchema, type AgentConfig } from '../../agent/src/config/schema.js';
import { sourceGroupSchema } from '../../agent/src/config/schema-groups.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { DeclaredRecords } from '../../agent/src/runtime/declared-records.js';
import {
  declaredGroups,
  DeclaredSources,
  declaredSourceSchema,
  type DeclaredSource,
} from '../../agent/src/runtime/declared-sources.js';
import { DirectionRecords } from '../../agent/src/runtime/direction-records.js';
import { sourceGroupsNow } from '../../agent/src/runtime/reversals.js';
import type { SourceSide } from '../../agent/src/runtime/source-side.js';
import type { SourceVms } from '../../agent/src/runtime/source-vms.js';

const storage = new NodeStorage();
const config = agentConfigSchema.parse({
  ...{ site: 'ams', agent: 'ams-1', tls: { certificate: 'c', key: 'k', authority: 'a' } },
  peers: [{ name: 'fra-1', address: 'fra-1:7441' }],
}) satisfies AgentConfig;
const specOf = (seconds: number) => ({
  targets: [{ peer: 'fra-1' }],
  checkpointIntervalSeconds: seconds,
  disks: [{ kind: 'in-path' as const, name: 'data', file: '/dev/null' }],
});
const request = (seconds: number) => {
  const { name: _name, ...spec } = sourceGroupSchema.parse({ name: 'shop', ...specOf(seconds) });
  return { spec };
};

let directory: string;
let records: DeclaredRecords<DeclaredSource>;
let directions: DirectionRecords;
let declared: DeclaredSources;
let removed: string[];
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-declared-'));
  records = new DeclaredRecords(storage, join(directory, 'sources'), declaredSourceSchema);
  directions = new DirectionRecords(storage, join(directory, 'directions'));
  await records.load();
  await directions.load();
  removed = [];
  declared = new DeclaredSources({
    ...{ records, directions, storage, config: () => config, isTarget: () => false },
    sources: {
      find: () => undefined,
      notOpened: new Map(),
      remove: async (name: string) => void removed.push(name),
    } as unknown as SourceSide,
    vms: { plan: async () => [] } as unknown as SourceVms,
    changed: async () => undefined,
    events: { emit: () => undefined },
    spoolDirectory: join(directory, 'spool'),
  });
  await declared.declare('shop', request(5));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const now = (): number[] => {
  const sourceGroups = [...config.sourceGroups, ...declaredGroups(records, config)];
  return sourceGroupsNow(sourceGroups, directions).map((each) => each.checkpointIntervalSeconds);
};
const turn = (role: 'source' | 'target', peer = 'fra-1'): Promise<void> =>
  directions.save({
    ...{ version: 1, group: 'shop', operation: 'r1' },
    ...(role === 'source'
      ? { role, config: sourceGroupSchema.parse({ name: 'shop', ...specOf(9), targets: [{ peer }] }) }
      : {
          ...{ role, vms: [], keepUntilMs: 0, settled: true, parent: { epoch: 1, branch: '0123456789abcdef' } },
          spec: {} as never,
        }),
  });

test('protected to here: the declaration can be changed, and does nothing', async () => {
  await turn('target');
  expect(now()).toEqual([]);
  expect(await declared.declare('shop', request(5))).toMatchObject({ policyRevision: 1 });
  expect(await declared.declare('shop', request(6))).toMatchObject({ policyRevision: 2, opened: false });
  expect(now()).toEqual([]);
  await declared.remove('shop', {});
  // What it is here now is a target group: nothing of it was closed.
  expect([removed, directions.get('shop')?.role]).toEqual([[], 'target']);
});

test('home again it goes as declared: a change reaches what is in force, a removal ends it', async () => {
  await turn('source');
  expect(now()).toEqual([5]);
  await declared.declare('shop', request(6));
  expect(now()).toEqual([6]);
  await declared.remove('shop', {});
  expect([removed, now(), directions.get('shop')]).toEqual([['shop'], [], undefined]);
});

test('a reversal to another peer than the declared one: it goes where that sent it, until it is declared anew', async () => {
  await turn('source', 'par-1');
  expect(now()).toEqual([9]);
  await declared.declare('shop', request(6));
  expect(now()).toEqual([6]);
});

test('what a reversal alone made is not taken over by a declaration', async () => {
  await declared.remove('shop', {});
  await turn('source');
  await expect(declared.declare('shop', request(5))).rejects.toMatchObject({ code: 'group-exists' });
});

test('declarations are there after a start', async () => {
  const again = new DeclaredRecords(storage, join(directory, 'sources'), declaredSourceSchema);
  await again.load();
  expect(again.get('shop')).toEqual(records.get('shop'));
});
