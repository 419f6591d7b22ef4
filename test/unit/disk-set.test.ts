/** Which disks a group has at a moment. */
import { expect, test } from '@jest/globals';
import { removedAfter } from '../../agent/src/target/disk-set.js';
import type { DiskRecord } from '../../agent/src/target/manifest.js';

test('a block that is sent again may write to a disk whose removal comes later in its stream, and only then', () => {
  const disk: DiskRecord = { type: 'disk', index: 0, name: 'a', sizeBytes: 4096, stream: 0, removed: false };
  const gone = { ...disk, removed: true, since: { incarnation: 2, sequence: 618 } };
  const found = (records: DiskRecord[], incarnation: number, lastSequence: number): DiskRecord | undefined =>
    removedAfter({ diskChanges: records }, 0, { incarnation, lastSequence }) as DiskRecord | undefined;
  expect(found([disk, gone], 2, 617)).toEqual(gone);
  expect(found([disk, gone], 2, 618)).toBeUndefined();
  expect(found([disk, gone], 3, 1)).toBeUndefined();
  expect(found([disk], 2, 617)).toBeUndefined();
  expect(found([], 2, 617)).toBeUndefined();
});
