/**
 * Writes the frozen samples of segment and record log: `node scripts/run-ts.ts test/formats/freeze-journal.ts`. Run once
 * for each released version, into a new folder; samples are never changed afterwards.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RecordKind } from '../../agent/src/block/record.js';
import { MemoryStorage, seededRandom } from '../unit/journal-memory-storage.js';
import { makeBlock, openTest } from '../unit/journal-model.js';

const folder = join(process.env['TIDEMARK_ROOT'] ?? '.', 'test/formats/journal-v1');

for (const [name, key] of [
  ['plain', undefined],
  ['encrypted', Buffer.alloc(32, 7)],
] as const) {
  const storage = new MemoryStorage();
  const { journal } = await openTest(storage, seededRandom(1), { key, segmentBytes: 1 << 20 });
  const payload = Buffer.from('Tidemark frozen sample '.repeat(30));
  const mark = Buffer.from(
    JSON.stringify({ id: 'cp1', kind: 'tagged', label: 'frozen', sourceTimeMs: 1, disksMissing: [] }),
  );
  journal.append(makeBlock({ first: 1 }, [{ kind: RecordKind.write, disk: 1, offset: 0, payload }]));
  journal.append(
    makeBlock({ first: 2, compressed: true }, [{ kind: RecordKind.write, disk: 1, offset: 8192, payload }]),
  );
  const range = { first: 3, last: 10, folded: true };
  journal.append(makeBlock({ ...range, part: 0 }, [{ kind: RecordKind.zero, disk: 1, offset: 100, length: 100 }]));
  journal.append(
    makeBlock({ ...range, part: 1, lastPart: true }, [{ kind: RecordKind.checkpoint, payload: mark, sequence: 10 }]),
  );
  await journal.flush();
  // The open state, then the sealed one that recovery makes of it.
  for (const state of ['open', 'sealed']) {
    if (state === 'sealed') await openTest(storage, seededRandom(2), { key });
    for (const path of storage.names.keys()) {
      const target = join(folder, `${name}-${state}`, path);
      mkdirSync(join(target, '..'), { recursive: true });
      writeFileSync(target, storage.bytes(path));
    }
  }
}
