/** A group goes there and back again: failover, commit, reverse, move home, commit, reverse; between two libvirts. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AgentConfigInput } from '../../agent/src/config/schema.js';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { startCountingRelay, type CountingRelay } from '../support/counting-relay.js';
import { Laboratory } from '../support/laboratory.js';
import { writePowerButtonDisk } from '../support/power-button-guest.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { VirshGate, type GateRule } from '../support/virsh-gate.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 32 * MiB;
const uuid = '2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de';

describe('a group goes there and back again', () => {
  let lab: Laboratory;
  let home: PrivateLibvirt;
  let away: PrivateLibvirt;
  let atHome: AgentHandle;
  let atAway: AgentHandle;
  let toHome: CountingRelay;
  let toAway: CountingRelay;
  const gates = new Map<AgentHandle, VirshGate>();

  beforeAll(async () => {
    lab = await Laboratory.open();
    home = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'a'), 'libvirt-a');
    away = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'b'), 'libvirt-b');
    const disk = lab.path('web.raw');
    writePowerButtonDisk(disk, sizeBytes);
    // Behind what the guest counts on: bytes that a whole sync would have to send.
    const bytes = readFileSync(disk);
    for (let offset = MiB; offset < sizeBytes; offset += 4)
      bytes.writeInt32LE(Math.imul(offset, 0x9e3779b1) | 0, offset);
    writeFileSync(disk, bytes);
    writeFileSync(lab.path('web.xml'), domainXml(disk, lab.path('web.log')));
    await home.virsh.run(['define', lab.path('web.xml')]);
    await home.virsh.run(['start', 'web']);
    atAway = await lab.prepareAgent('away');
    atHome = await lab.prepareAgent('home');
    toHome = await startCountingRelay(atHome.addresses.stream);
    toAway = await startCountingRelay(atAway.addresses.stream);
    for (const agent of [atAway, atHome])
      gates.set(
        agent,
        new VirshGate(lab.path(`gate-${agent.name}`), () => join(agent.dataDirectory, 'groups', 'shop')),
      );
    const common = (
      agent: AgentHandle,
      { uri }: PrivateLibvirt,
      other: AgentHandle,
      { address }: CountingRelay,
    ): Partial<AgentConfigInput> & { readonly env: Readonly<Record<string, string>> } => ({
      env: gates.get(agent)!.env,
      peers: [{ name: other.name, address, api: other.addresses.api }],
      hypervisors: [{ name: 'local', kind: 'libvirt', uri }],
    });
    atAway.configure({
      ...common(atAway, away, atHome, toHome),
      targetGroups: [
        {
          name: 'shop',
          streams: ['home'],
          disks: [{ name: 'web-vda', sizeBytes, stream: 'home' }],
          checkpointIntervalSeconds: 1,
          recovery: { hypervisor: 'local', vms: [{ vm: 'web' }] },
        },
      ],
    });
    atHome.configure({
      ...common(atHome, home, atAway, toAway),
      sourceGroups: [
        {
          name: 'shop',
          targets: [{ peer: 'away' }],
          checkpointIntervalSeconds: 1,
          vms: [{ vm: 'web', hypervisor: 'local' }],
          fencing: 'leave',
        },
      ],
    });
    await atAway.start();
    await atHome.start();
    await protecting(atHome, atAway);
  }, 180_000);
  afterAll(async () => {
    await atHome?.kill();
    await atAway?.kill();
    await toHome?.[Symbol.asyncDispose]();
    await toAway?.[Symbol.asyncDispose]();
    await home?.[Symbol.asyncDispose]();
    await away?.[Symbol.asyncDispose]();
    await lab?.close();
  }, 60_000);

  const protecting = (source: AgentHandle, target: AgentHandle): Promise<unknown> => {
    const sinceMs = Date.now();
    return waitFor(
      `${target.name} has a new complete checkpoint from ${source.name}`,
      async () => {
        const { role, state, newestCheckpoint } = await target.client.group('shop');
        expect((await source.client.group('shop')).role).toBe('source');
        expect(role).toBe('target');
        return (
          state === 'protecting' &&
          (newestCheckpoint?.sourceTimeMs ?? 0) > sinceMs &&
          newestCheckpoint?.attributes['definitions'] !== undefined
        );
      },
      { timeoutMs: 60_000, everyMs: 100 },
    );
  };

  const run = async (
    agent: AgentHandle,
    id: string,
    kind: 'failover' | 'commit' | 'reverse' | 'move',
    args: object = {},
  ): Promise<Operation> => {
    await agent.client.startOperation(id, { kind, group: 'shop', arguments: args } as never);
    return agent.client.waitOperation(id, () => undefined, AbortSignal.timeout(120_000));
  };

  const succeeded = async (...args: Parameters<typeof run>): Promise<Operation> => {
    const done = await run(...args);
    expect({ state: done.state, error: done.error }).toEqual({ state: 'succeeded', error: null });
    return done;
  };

  const diskOf = async ({ virsh }: PrivateLibvirt): Promise<string> =>
    /<source file='([^']*)'/.exec(await virsh.run(['dumpxml', 'web']))![1]!;

  /** What the VM has counted, on its own disk. */
  const counter = async (site: PrivateLibvirt): Promise<number> => readFileSync(await diskOf(site)).readUInt32LE(512);

  const restart = async (...agents: AgentHandle[]): Promise<void> => {
    for (const agent of agents) await agent.kill();
    for (const agent of agents) await agent.start();
  };

  /** While the operation runs: an agent is held at a call of virsh, and the victim is killed and started again. */
  const strike = async (
    strikes: readonly { readonly held: AgentHandle; readonly rule: GateRule; readonly victim: AgentHandle }[],
    begin: () => Promise<unknown>,
  ): Promise<void> => {
    let killed: AgentHandle | undefined;
    for (const { held, rule, victim } of strikes) {
      for (const gate of gates.values()) if (gate !== gates.get(held)) gate.open();
      gates.get(held)!.arm(rule);
      // It may be held before it is ready, and is killed again then.
      const started = killed === undefined ? begin() : killed.start().catch(() => undefined);
      await gates.get(held)!.held(`${held.name} ${rule.when} ${rule.call}`);
      await victim.kill();
      if (victim !== killed) await started;
      killed = victim;
    }
    for (const gate of gates.values()) gate.open();
    await killed?.start();
  };

  let firstSyncBytes: number;

  test('a side that still runs is a split: named, nothing touched; a person gives it up', async () => {
    firstSyncBytes = toAway.bytes();
    expect(firstSyncBytes).toBeGreaterThan(sizeBytes / 2);
    await succeeded(atAway, 'out', 'failover', { at: { by: 'latest' }, sourceMayBeAlive: true });
    await succeeded(atAway, 'stay', 'commit');
    const refused = await run(atAway, 'too-early', 'reverse');
    expect(refused).toMatchObject({ state: 'failed', error: { code: 'split' } });
    expect(refused.error?.message).toContain('site-home: web');
    expect(await home.list()).toEqual(['web']);
    expect((await atAway.client.group('shop')).state).toBe('committed');
  }, 180_000);

  test('reverse, with kills of each agent: the old disk is where the first sync begins, only what differs is sent', async () => {
    const oldDisk = await diskOf(home);
    const atHypervisor = (when: GateRule['when'], call: string): GateRule => ({ when, call: ` ${call} ` });
    await strike(
      [
        { held: atHome, rule: atHypervisor('before', 'destroy'), victim: atHome },
        { held: atHome, rule: atHypervisor('after', 'destroy'), victim: atAway },
        { held: atHome, rule: atHypervisor('before', 'undefine'), victim: atHome },
        { held: atHome, rule: atHypervisor('after', 'undefine'), victim: atHome },
        { held: atAway, rule: { when: 'before', call: '', record: '"state":"reversed"' }, victim: atAway },
      ],
      () =>
        atAway.client.startOperation('back', {
          ...{ kind: 'reverse', group: 'shop' },
          arguments: { discardSource: true },
        } as never),
    );
    const reversed = await atAway.client.waitOperation('back', () => undefined, AbortSignal.timeout(120_000));
    expect({ state: reversed.state, error: reversed.error }).toEqual({ state: 'succeeded', error: null });
    expect(reversed.result).toMatchObject({ peer: 'home', home: { seeded: ['web-vda'], whole: [] } });
    await protecting(atAway, atHome);
    const bytes = toHome.bytes();
    console.log(`reverse sent ${((bytes / firstSyncBytes) * 100).toFixed(2)} % of the first sync`);
    expect(bytes).toBeLessThan(firstSyncBytes * 0.05);
    expect(await home.list('--all')).toEqual([]);
    expect(readFileSync(oldDisk)).toHaveLength(sizeBytes);
    expect(readFileSync(join(atHome.dataDirectory, 'directions', 'shop-web.definition'), 'utf8')).toContain(uuid);
  }, 180_000);

  test('both agents killed: the group goes on the same way', async () => {
    await restart(atHome, atAway);
    await protecting(atAway, atHome);
    const before = await counter(away);
    await waitFor('the VM counts', async () => (await counter(away)) > before);
  }, 180_000);

  test('move home: nothing is lost', async () => {
    const moved = await succeeded(atHome, 'home', 'move', { timeoutSeconds: 20 });
    expect(moved.result).toMatchObject({ lossSeconds: 0 });
    const last = await counter(away);
    expect(await away.list()).toEqual([]);
    expect(await home.list()).toEqual(['web']);
    await succeeded(atHome, 'settle', 'commit');
    expect(await counter(home)).toBeGreaterThan(last);
  }, 180_000);

  test('and protected away again, through a kill of either agent', async () => {
    await atHome.client.startOperation('again', { kind: 'reverse', group: 'shop', arguments: {} } as never);
    await atAway.kill();
    await restart(atHome);
    await atAway.start();
    const done = await atHome.client.waitOperation('again', () => undefined, AbortSignal.timeout(120_000));
    // Cut in the middle it goes on, or it failed before anything had changed and is asked for again.
    if (done.state === 'failed') await succeeded(atHome, 'once-more', 'reverse');
    await protecting(atHome, atAway);
    expect(await away.list('--all')).toEqual([]);
    const record = readFileSync(join(atHome.dataDirectory, 'directions', 'shop.json'), 'utf8');
    expect(JSON.parse(record)).toMatchObject({ role: 'source', config: { fencing: 'leave' } });
    await restart(atAway, atHome);
    await protecting(atHome, atAway);
  }, 180_000);

  test('removed at both sides: neither goes the turned way any more, the VM runs on', async () => {
    for (const agent of [atAway, atHome]) {
      await agent.client.removeGroup('shop', { graceDays: 1 });
      expect(existsSync(join(agent.dataDirectory, 'directions', 'shop.json'))).toBe(false);
      await agent.client.removeGroup('shop', { graceDays: 1 });
    }
    expect(await home.list()).toEqual(['web']);
    const jobs = await home.virsh.run(['qemu-monitor-command', 'web', '{"execute":"query-block-jobs"}']);
    expect((JSON.parse(jobs) as { return: unknown }).return).toEqual([]);
    expect((await atHome.client.groups()).map(({ name }) => name)).toEqual([]);
  }, 60_000);
});

function domainXml(disk: string, log: string): string {
  return `<domain type='qemu'><name>web</name><uuid>${uuid}</uuid>
    <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><features><acpi/></features>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
    <source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='${log}'/></serial></devices></domain>`;
}
