/** The rules of the policy pack, each with a stack that holds it and one that does not. */
import { expect, test } from '@jest/globals';
import {
  belowClass,
  databasesWithoutHooks,
  defaultConfig,
  drillTooOld,
  sharedFailureDomain,
  unencryptedJournal,
  unprotectedVms,
  type Finding,
  type StackResource,
} from '../../components/policy/rules.js';

const nowMs = Date.UTC(2026, 5, 1);
const group = (props: object = {}, policy: object = {}): StackResource => ({
  type: 'tidemark:index:ProtectionGroup',
  name: 'shop',
  props: { name: 'shop', policy: { recovery: { vms: [{ vm: 'db' }] }, ...policy }, ...props },
});
const vm = (name: string, tier: string): StackResource => ({
  type: 'libvirt:index/domain:Domain',
  name,
  props: { name, tags: { tier } },
});
const drill = (days: number, result = 'passed'): StackResource => ({
  type: 'tidemark:index:RecoveryDrill',
  name: 'drill',
  props: { group: 'shop', result, finishedAt: new Date(nowMs - days * 86_400_000).toISOString() },
});
const messages = (findings: Finding[]): string[] => findings.map(({ message }) => message);

test('tier 1 is protected', () => {
  const list = { ...defaultConfig, tierOneVms: ['db', 'erp'] };
  expect(messages(unprotectedVms([group(), vm('db', '1'), vm('dev', '3')], defaultConfig))).toEqual([]);
  expect(unprotectedVms([group(), vm('web', '1')], defaultConfig)).toMatchObject([{ resource: { name: 'web' } }]);
  expect(messages(unprotectedVms([group()], list))).toEqual([expect.stringContaining('erp')]);
});

test('a class is held', () => {
  const gold = { labels: { class: 'gold' } };
  const day = { history: { windowSeconds: 86_400 } };
  expect(belowClass([group(), group(gold)], defaultConfig)).toEqual([]);
  expect(messages(belowClass([group(gold, { checkpointIntervalSeconds: 6, ...day })], defaultConfig))).toEqual([
    'class gold wants an RPO of 10 s; its checkpoints allow 12 s',
    'class gold wants 720 h of history; it keeps 24 h',
  ]);
  expect(messages(belowClass([group({ labels: { class: 'lead' } })], defaultConfig))).toEqual([
    'class lead is none of gold, silver, bronze',
  ]);
});

test('a database has a hook of its own', () => {
  const labels = { databases: 'db, crm' };
  const source = (...kinds: string[]): StackResource => ({
    type: 'tidemark:index:SourceGroup',
    name: 'shop',
    props: { name: 'shop', capture: { hooks: { vms: [{ vm: 'db', hooks: kinds.map((kind) => ({ kind })) }] } } },
  });
  expect(messages(databasesWithoutHooks([group({ labels }), source('postgresql', 'fsfreeze')]))).toEqual([
    expect.stringContaining('crm'),
  ]);
  for (const kinds of [['fsfreeze'], ['windows', 'fsfreeze']])
    expect(databasesWithoutHooks([group({ labels }), source(...kinds)])).toHaveLength(2);
});

test('sites are apart', () => {
  const labels = (source: string, target: string): object => ({
    labels: { sourceFailureDomain: source, targetFailureDomain: target },
  });
  const api = (host: string): object => ({ api: `https://${host}:7440` });
  expect(sharedFailureDomain([group(labels('ams', 'fra'))])).toEqual([]);
  expect(sharedFailureDomain([group(labels('ams', 'ams'))])).toHaveLength(1);
  expect(sharedFailureDomain([group()])).toHaveLength(1);
  const same = { ...labels('ams', 'fra'), source: api('one'), target: api('one') };
  expect(messages(sharedFailureDomain([group(same)]))).toEqual(['both agents answer at the host one']);
});

test('the journal is encrypted', () => {
  expect(unencryptedJournal([group({}, { encryptionKeyFile: '/etc/key' })])).toEqual([]);
  expect(unencryptedJournal([group()])).toHaveLength(1);
});

test('a drill has passed lately', () => {
  const old = (drills: StackResource[]): string[] => messages(drillTooOld([group(), ...drills], defaultConfig, nowMs));
  expect(old([drill(100), drill(10)])).toEqual([]);
  expect(old([drill(100)])).toEqual(['its last good drill is 100 days old, more than 90']);
  expect(old([drill(1, 'failed')])).toEqual(['no drill of it has passed']);
  // A preview that runs it: what it will prove may not be looked at.
  const unknown = new Proxy({ group: 'shop' }, { get: (props, key) => (key === 'group' ? props.group : fail()) });
  expect(old([{ ...drill(0), props: unknown }])).toEqual([]);
});

function fail(): never {
  throw new Error('unknown value');
}
