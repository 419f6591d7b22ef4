import { expect, test } from '@jest/globals';
import { applicationText } from '../../agent/src/cli/application-text.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';

const checkpoint = (application: unknown): Checkpoint => ({
  ...{ id: '01abc', kind: 'application', label: null, sourceTimeMs: 0, epoch: 1, diskCount: 1, disksPresent: 1 },
  ...{ complete: true, pins: [], attributes: application === undefined ? {} : { application } },
});
const vm = {
  vm: 'db',
  hooks: ['postgresql', 'fsfreeze'],
  quiesceMs: 12.34,
  holdMs: 15.01,
  verifiedBy: ['3 thawed = 3 frozen'],
};

test('what an application checkpoint recorded is told', () => {
  const text = applicationText(checkpoint({ proven: true, markUs: 42, flushedBytes: 4096, vms: [vm] }));
  expect(text).toMatch(/db\s+postgresql fsfreeze\s+12\.3 ms\s+15\.0 ms\s+3 thawed = 3 frozen/);
  expect(text).toContain('marked in 42 µs, 4096 bytes written while held');
});

test('one that is only crash-consistent says why; others say nothing', () => {
  const reasons = [{ vm: 'db', step: 'quiesce', code: 'timed-out', reason: 'it took over 10 s' }];
  const told = { proven: false, markUs: 1, flushedBytes: 0, vms: [vm], reasons };
  expect(applicationText(checkpoint(told))).toContain('only crash-consistent: db quiesce: it took over 10 s\n');
  expect(applicationText(checkpoint({ proven: false, reasons }))).toBe(
    'only crash-consistent: db quiesce: it took over 10 s\n',
  );
  expect(applicationText(checkpoint(undefined))).toBe('');
});
