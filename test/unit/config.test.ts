import { describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { loadConfig, parseConfig } from '../../agent/src/config/load.js';
import { planReload } from '../../agent/src/config/reload.js';
import { roleOf } from '../../agent/src/config/schema.js';
import { parseSelector, formatSelector } from '../../agent/src/service/selector.js';
import { parseSize } from '../../agent/src/service/sizes.js';

const head = `site: fra
agent: fra-1
listen: { stream: "0.0.0.0:7441" }
tls: { certificate: a.crt, key: a.key, authority: ca.crt }
access: [{ name: alice, role: operator }]
peers:
  - { name: ams-1, address: "ams-1:7441" }
`;
const source = `sourceGroups:
  - name: shop
    targets: [{ peer: ams-1 }]
    disks:
      - { name: data, kind: mirror, sizeBytes: 20GiB }
`;
const target = `targetGroups:
  - name: wiki
    streams: [ams-1]
    disks:
      - { name: data, sizeBytes: 1GiB, stream: ams-1 }
`;
const whole = head + source + target;

function problem(text: string): string {
  try {
    parseConfig(text, 'agent.yaml');
  } catch (error) {
    expect(error).toMatchObject({ code: 'config-invalid' });
    return (error as Error).message;
  }
  throw new Error('it was accepted');
}

describe('configuration', () => {
  test('defaults', () => {
    const config = parseConfig(whole, 'agent.yaml');
    expect(config.listen.api).toBe('127.0.0.1:7440');
    expect(config.sourceGroups[0]).toMatchObject({
      checkpointIntervalSeconds: 5,
      disks: [{ sizeBytes: 20 * 1024 ** 3 }],
    });
    expect(config.targetGroups[0]!.history).toMatchObject({
      windowSeconds: 30 * 86_400,
      failoverReserve: 0.1,
      scrubPassDays: 7,
      rollbackKeepHours: 168,
    });
    expect(roleOf(config, 'alice')).toBe('operator');
    expect(roleOf(config, 'ams-1')).toBe('peer');
    expect(roleOf(config, 'eve')).toBeUndefined();
  });

  test.each([
    [
      'an interval below 1',
      whole.replace('    disks:', '    checkpointIntervalSeconds: 0.2\n    disks:'),
      'agent.yaml:11: sourceGroups[0].checkpointIntervalSeconds:',
    ],
    ['an unknown property', `${whole}colour: red\n`, 'agent.yaml:18: colour: unknown property'],
    [
      'an unknown property of one kind of disk',
      whole.replace('mirror, ', 'mirror, upstrem: x, '),
      'agent.yaml:12: sourceGroups[0].disks[0].upstrem: unknown property',
    ],
    [
      'a wrong size',
      whole.replace('20GiB', '20 parsecs'),
      'agent.yaml:12: sourceGroups[0].disks[0].sizeBytes: a size is',
    ],
    [
      'a size that is no multiple',
      whole.replace('20GiB', '1000'),
      'agent.yaml:12: sourceGroups[0].disks[0].sizeBytes: a disk has',
    ],
    ['a missing property', whole.replace('site: fra\n', ''), 'site:'],
    [
      'an unknown peer',
      whole.replace('peer: ams-1', 'peer: nyc-1'),
      'agent.yaml:10: sourceGroups[0].targets[0].peer: nyc-1 is not in peers',
    ],
    [
      'a group twice',
      whole.replace('name: wiki', 'name: shop'),
      'agent.yaml:14: targetGroups[0].name: another group is named shop',
    ],
    [
      'an in-path disk without a source',
      whole.replace('kind: mirror, sizeBytes: 20GiB', 'kind: in-path'),
      'agent.yaml:12: sourceGroups[0].disks[0].file:',
    ],
    ['a bad address', whole.replace('ams-1:7441"', 'ams-1:99999"'), 'agent.yaml:7: peers[0].address: an address is'],
    [
      'target groups without a listener',
      whole.replace('listen: { stream: "0.0.0.0:7441" }\n', ''),
      'listen.stream: target groups need it',
    ],
    ['broken YAML', `${whole}  - [`, 'agent.yaml:'],
    ['no mapping', '- 1', 'agent.yaml:1: (whole):'],
    [
      'an alias bomb',
      `a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n`,
      'agent.yaml',
    ],
  ])('names file, line and property of %s', (_name, text, expected) => {
    expect(problem(text)).toContain(expected);
  });

  test('names all that is wrong', () => {
    expect(problem(whole.replace('20GiB', 'x').replace('role: operator', 'role: king')).split('\n')).toHaveLength(2);
  });

  test('relative paths are relative to the file', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tidemark-config-'));
    try {
      writeFileSync(join(directory, 'agent.yaml'), whole);
      expect((await loadConfig(join(directory, 'agent.yaml'))).tls.key).toBe(join(directory, 'a.key'));
      await expect(loadConfig(join(directory, 'none.yaml'))).rejects.toMatchObject({ code: 'config-invalid' });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe('reload', () => {
  const before = parseConfig(whole, 'a');
  const plan = (text: string): ReturnType<typeof planReload> => planReload(before, parseConfig(text, 'a'));

  test.each([
    ['nothing', whole, []],
    ['a throttle', `${whole}throttle: [{ bytesPerSecond: 1MiB }]\n`, ['throttle']],
    ['a role', whole.replace('operator', 'reader'), ['access']],
    [
      'an interval',
      whole.replace('    disks:', '    checkpointIntervalSeconds: 9\n    disks:'),
      ['sourceGroups[0].checkpointIntervalSeconds'],
    ],
    ['a larger disk', whole.replace('20GiB', '30GiB'), ['sourceGroups[0].disks']],
    ['a history limit', `${whole}    history: { hardLimitBytes: 1GiB }\n`, ['targetGroups[0].history']],
    [
      'a new group',
      whole.replace(
        '  - name: wiki',
        '  - name: blog\n    streams: [ams-1]\n    disks: [{ name: d, sizeBytes: 1MiB, stream: ams-1 }]\n  - name: wiki',
      ),
      ['targetGroups[0]'],
    ],
  ])('%s changes live', (_name, text, live) => {
    expect(plan(text)).toEqual({ live, refused: [] });
  });

  test.each([
    ['the site', whole.replace('site: fra', 'site: ber'), 'site'],
    ['the buffers', `${whole}buffers: { bufferBytes: 1GiB }\n`, 'buffers'],
    ['a smaller disk', whole.replace('20GiB', '10GiB'), 'sourceGroups[0].disks[0].sizeBytes'],
    ['the key', `${whole}    encryptionKeyFile: /k\n`, 'targetGroups[0].encryptionKeyFile'],
    ['a group left out', head + source, 'targetGroups[0]'],
  ])('%s is refused by its path', (_name, text, path) => {
    expect(plan(text).refused.map((each) => each.path)).toEqual([path]);
  });
});

test('sizes', () => {
  expect(['1', '1 KiB', '2G', '1.5MiB', '3MB', '1tib'].map(parseSize)).toEqual([
    1,
    1024,
    2 * 1024 ** 3,
    1.5 * 1024 ** 2,
    3e6,
    1024 ** 4,
  ]);
  expect(['', '-1', '1.3', '1 x', '99999999TiB'].map(parseSize)).toEqual([
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});

test('selectors survive their text form', () => {
  const text = fc.stringMatching(/^[a-z0-9]{1,20}$/);
  const selector = fc.oneof(
    fc.constantFrom({ by: 'latest' as const }, { by: 'latest-application' as const }),
    text.map((checkpoint) => ({ by: 'id' as const, checkpoint })),
    text.map((label) => ({ by: 'label' as const, label })),
    fc.integer({ min: 1_500_000_000_000, max: 4_000_000_000_000 }).map((timeMs) => ({ by: 'time' as const, timeMs })),
  );
  fc.assert(fc.property(selector, (value) => expect(parseSelector(formatSelector(value), 0)).toEqual(value)));
  expect(parseSelector('-15m', 3_600_000)).toEqual({ by: 'time', timeMs: 2_700_000 });
  expect(parseSelector('2026-01-01T00:00:00Z', 0)).toEqual({ by: 'time', timeMs: Date.UTC(2026, 0, 1) });
  expect(() => parseSelector('yesterday, about noon', 0)).toThrow(expect.objectContaining({ code: 'request-invalid' }));
});
