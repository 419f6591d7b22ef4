import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CatalogueDatabase } from '../../agent/src/control/catalogue/database.js';
import { WorkerCatalogue } from '../../agent/src/control/catalogue/worker-catalogue.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import { fakeCheckpoint } from '../support/fake-service.js';

const fakeOperation = (id: string, more: Partial<Operation> = {}): Operation => ({
  id,
  kind: 'verify',
  group: 'shop',
  arguments: {},
  state: 'running',
  step: 'begun',
  revision: 1,
  progress: null,
  startedMs: 1,
  finishedMs: null,
  drivenBy: 'a',
  result: null,
  error: null,
  ...more,
});
const points = (count: number): Checkpoint[] =>
  Array.from({ length: count }, (_, index) =>
    fakeCheckpoint(index, index % 10 === 5 ? { kind: 'application', label: 'nightly' } : {}),
  );

describe('catalogue', () => {
  let directory: string;
  let file: string;
  let catalogue: WorkerCatalogue;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-catalogue-'));
    file = join(directory, 'catalogue.db');
    catalogue = new WorkerCatalogue(file);
    await catalogue.rebuild({
      group: 'shop',
      mark: { generation: 'g1', position: 100 },
      checkpoints: points(2500),
      operations: [fakeOperation('op-1')],
    });
  });
  afterEach(async () => {
    await catalogue.close();
    rmSync(directory, { recursive: true });
  });

  test('lists what a rebuild gave, newest first, by pages and filters', async () => {
    expect(await catalogue.mark('shop')).toEqual({ generation: 'g1', position: 100 });
    const seen: string[] = [];
    let before: string | null = null;
    do {
      const page = await catalogue.checkpoints('shop', { limit: 999, ...(before === null ? {} : { before }) });
      seen.push(...page.checkpoints.map((point) => point.id));
      before = page.next;
    } while (before !== null);
    expect(seen).toEqual(
      points(2500)
        .map((point) => point.id)
        .reverse(),
    );
    expect((await catalogue.checkpoints('shop', { limit: 1000, kind: 'application' })).checkpoints).toHaveLength(250);
    expect((await catalogue.checkpoints('shop', { limit: 1, label: 'nightly' })).checkpoints).toEqual([
      points(2500)[2495],
    ]);
    const { sourceTimeMs } = fakeCheckpoint(10);
    expect(
      (await catalogue.checkpoints('shop', { limit: 9, fromMs: sourceTimeMs, toMs: sourceTimeMs + 5000 })).checkpoints,
    ).toHaveLength(2);
    expect((await catalogue.checkpoints('else', { limit: 9 })).checkpoints).toEqual([]);
    expect(await catalogue.checkpoint('shop', fakeCheckpoint(3).id)).toEqual(fakeCheckpoint(3));
  });

  test('a change counts whole and only from its own mark on', async () => {
    const change = {
      group: 'shop',
      generation: 'g1',
      before: 100,
      after: 101,
      checkpoints: [fakeCheckpoint(2500)],
      checkpointsRemoved: [fakeCheckpoint(0).id],
      operations: [fakeOperation('op-1', { state: 'succeeded' })],
    };
    expect(await catalogue.put({ ...change, before: 99 })).toBe(false);
    expect(await catalogue.put({ ...change, generation: 'g2' })).toBe(false);
    expect(await catalogue.checkpoint('shop', fakeCheckpoint(2500).id)).toBeUndefined();
    expect(await catalogue.put(change)).toBe(true);
    expect(await catalogue.put(change)).toBe(false);
    expect(await catalogue.checkpoint('shop', fakeCheckpoint(0).id)).toBeUndefined();
    expect((await catalogue.operation('op-1'))?.state).toBe('succeeded');
  });

  test('a database restored old is noticed and remade', async () => {
    await catalogue.close();
    copyFileSync(file, join(directory, 'old.db'));
    catalogue = new WorkerCatalogue(file);
    expect(await catalogue.put({ group: 'shop', generation: 'g1', before: 100, after: 101 })).toBe(true);
    await catalogue.close();
    rmSync(`${file}-wal`, { force: true });
    copyFileSync(join(directory, 'old.db'), file);
    catalogue = new WorkerCatalogue(file);
    expect(await catalogue.put({ group: 'shop', generation: 'g1', before: 101, after: 102 })).toBe(false);
    await catalogue.rebuild({
      group: 'shop',
      mark: { generation: 'g1', position: 102 },
      checkpoints: points(3),
      operations: [],
    });
    expect((await catalogue.checkpoints('shop', { limit: 100 })).checkpoints).toHaveLength(3);
    expect(await catalogue.operation('op-1')).toBeUndefined();
  });

  test.each([
    ['deleted', (): void => rmSync(file)],
    ['damaged', (): void => writeFileSync(file, Buffer.alloc(8192, 7))],
    ['cut short', (): void => writeFileSync(file, 'SQLite format 3\0')],
  ])('a %s file is empty again, not an error', async (_name, harm) => {
    await catalogue.close();
    for (const suffix of ['-wal', '-shm']) rmSync(file + suffix, { force: true });
    harm();
    catalogue = new WorkerCatalogue(file);
    expect(await catalogue.mark('shop')).toBeUndefined();
  });

  test('a crash in a rebuild leaves no mark', () => {
    const database = new CatalogueDatabase(join(directory, 'other.db'));
    database.rebuildBegin('shop');
    database.rebuildRows('shop', { checkpoints: points(2) });
    expect(database.mark('shop')).toBeUndefined();
    expect(database.put({ group: 'shop', generation: 'g1', before: 0, after: 1 })).toBe(false);
    database.close();
  });

  test('operations by pages, also with equal times', async () => {
    const operations = Array.from({ length: 25 }, (_, index) =>
      fakeOperation(`op-${index}`, { startedMs: Math.floor(index / 10) }),
    );
    await catalogue.rebuild({ group: 'shop', mark: { generation: 'g1', position: 1 }, checkpoints: [], operations });
    const seen: string[] = [];
    let before: string | undefined;
    for (;;) {
      const page = await catalogue.operations({ limit: 4, group: 'shop', ...(before === undefined ? {} : { before }) });
      seen.push(...page.operations.map((operation) => operation.id));
      if (page.next === null) break;
      before = page.next;
    }
    expect(new Set(seen).size).toBe(25);
    expect(seen).toHaveLength(25);
  });

  test('a closed catalogue refuses, and closing twice is fine', async () => {
    await catalogue.close();
    await catalogue.close();
    await expect(catalogue.mark('shop')).rejects.toMatchObject({ code: 'shutting-down' });
  });
});
