/** A VM with firmware variables in a person's own libvirt session: captured, its variables followed, drilled there. */
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VmDefinition } from '../../agent/src/hypervisor/definition.js';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { SessionLibvirt } from '../support/session-libvirt.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const group = 'desk';
const vm = 'counter';
const diskBytes = 16 * MiB;
const variablesBytes = 128 * 1024;
/** A change is in every checkpoint that is made so much later, on a machine that does much else. */
const seenMs = 2500;

/** As UEFI is: code and variables in flash. The code is SeaBIOS, which boots the counter's disk. */
function domainXml(uuid: string, disk: string, variables: string, log: string, more = ''): string {
  return `<domain type='qemu'><name>${vm}</name><uuid>${uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/seabios/bios-256k.bin</loader><nvram>${variables}</nvram>
    <boot dev='hd'/></os><features><acpi/></features>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/>
    <target dev='vda' bus='virtio'/></disk><serial type='file'><source path='${log}'/></serial>
    <memballoon model='none'/>${more}</devices></domain>`;
}

describe('a VM of a libvirt session', () => {
  let lab: Laboratory;
  let libvirt: SessionLibvirt;
  let target: AgentHandle;
  let variables: string;
  const uuid = randomUUID();

  beforeAll(async () => {
    lab = await Laboratory.open();
    libvirt = await SessionLibvirt.start(lab.processes, lab.path('s'));
    const disk = lab.path('vda.raw');
    writeCountingDisk(disk, diskBytes);
    variables = lab.path('vars', 'counter.fd');
    writeFileSync(variables, Buffer.alloc(variablesBytes, 0xff));
    await define();
    await libvirt.virsh.run(['start', vm]);
    const hypervisors = [{ name: 'session', kind: 'libvirt' as const, uri: libvirt.uri }];
    target = await lab.startAgent('target', {
      ...{ ...libvirt.user, hypervisors, peers: [{ name: 'source' }] },
      targetGroups: [
        {
          ...{ name: group, streams: ['source'], checkpointIntervalSeconds: 1 },
          disks: [{ name: 'counter-vda', sizeBytes: diskBytes, stream: 'source' }],
          recovery: { hypervisor: 'session', vms: [{ vm }] },
        },
      ],
    });
    await lab.startAgent('source', {
      ...{ ...libvirt.user, hypervisors, peers: [{ name: 'target', address: target.addresses.stream }] },
      sourceGroups: [
        {
          ...{ name: group, targets: [{ peer: 'target' }], checkpointIntervalSeconds: 1 },
          vms: [{ vm, hypervisor: 'session' }],
        },
      ],
    });
    await namedBytes(Date.now());
  }, 120_000);
  afterAll(async () => {
    await libvirt?.[Symbol.asyncDispose]();
    await lab?.close();
  });

  async function define(more?: string): Promise<void> {
    const file = lab.path('counter.xml');
    writeFileSync(file, domainXml(uuid, lab.path('vda.raw'), variables, lab.path('serial.log'), more));
    await libvirt.virsh.run(['define', file]);
  }

  /** The variables of the first checkpoint seen that was made after `sinceMs`. */
  async function namedBytes(sinceMs: number): Promise<Buffer> {
    const checkpoint = await waitFor(
      'a complete checkpoint with its definition',
      async () => {
        const { newestCheckpoint } = await target.client.group(group);
        const isNew = newestCheckpoint !== null && newestCheckpoint.sourceTimeMs > sinceMs;
        return isNew && newestCheckpoint.attributes['definitions'] !== undefined ? newestCheckpoint : undefined;
      },
      { timeoutMs: 60_000 },
    );
    const hash = (checkpoint.attributes['definitions'] as Record<string, string>)[vm]!;
    const text = readFileSync(join(target.dataDirectory, 'groups', group, 'definitions', hash), 'utf8');
    const { files } = JSON.parse(text) as VmDefinition;
    return Buffer.from(files.find(({ role }) => role === 'nvram')?.contentBase64 ?? '', 'base64');
  }

  /** As the guest does it: through QEMU's flash. */
  const writeFlash = (value: number, offsetBytes = 4096): Promise<string> =>
    libvirt.virsh.run([
      ...['qemu-monitor-command', vm, '--hmp'],
      `qemu-io -d /machine/system.flash1 "write -P ${value} ${offsetBytes} 512"`,
    ]);

  const run = async (id: string, request: Omit<OperationRequest, 'group'>): Promise<Operation> => {
    await target.client.startOperation(id, { ...request, group } as OperationRequest);
    return target.client.waitOperation(id, () => undefined, AbortSignal.timeout(120_000));
  };

  test('a change of its firmware variables is in the checkpoints that follow', async () => {
    for (const value of [1, 2]) {
      await writeFlash(value);
      expect(readFileSync(variables)[4096]).toBe(value);
      expect((await namedBytes(Date.now() + seenMs))[4096]).toBe(value);
    }
  }, 60_000);

  test('a file that is missing keeps what was there; one that is put in its place counts', async () => {
    rmSync(variables);
    const before = await namedBytes(Date.now() + seenMs);
    expect(before).toHaveLength(variablesBytes);
    const next = Buffer.from(before);
    next[8192] = 77;
    writeFileSync(`${variables}.new`, next);
    renameSync(`${variables}.new`, variables);
    expect((await namedBytes(Date.now() + seenMs)).equals(next)).toBe(true);
  }, 60_000);

  test('many changes a second: few versions are kept, and the last is in the checkpoints that follow', async () => {
    const directory = join(target.dataDirectory, 'groups', group, 'definitions');
    const before = readdirSync(directory).length;
    const endMs = Date.now() + 3000;
    let last = 0;
    for (; Date.now() < endMs; await sleep(5)) {
      const content = Buffer.alloc(variablesBytes, 0xff);
      content.writeUInt32LE(++last);
      writeFileSync(variables, content);
    }
    expect((await namedBytes(Date.now() + seenMs)).readUInt32LE(0)).toBe(last);
    expect(last).toBeGreaterThan(30);
    // Looked at 5 times a second, and once more when quiet.
    expect(readdirSync(directory).length - before).toBeLessThanOrEqual(18);
  }, 60_000);

  test('is drilled in the session, from the checkpoint and with its variables', async () => {
    const now = await namedBytes(Date.now());
    const drill = await run('drill', { kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 60 } });
    expect(drill).toMatchObject({ error: null, state: 'succeeded', result: { passed: true, vms: [vm] } });
    const { name } = (drill.result?.['boots'] as { name: string }[])[0]!;
    const xml = await libvirt.virsh.run(['dumpxml', name]);
    const file = /<nvram[^>]*>([^<]*)<\/nvram>/.exec(xml)![1]!;
    expect(file).not.toBe(variables);
    expect(readFileSync(file).equals(now)).toBe(true);
    const log = /<source path='([^']*serial0.log)'/.exec(xml)![1]!;
    await waitFor('it counts', () => readFileSync(log, 'utf8').includes('....'), { timeoutMs: 60_000 });
    expect((await run('stop', { kind: 'drill-stop', arguments: { drill: 'drill' } })).state).toBe('succeeded');
    expect((await libvirt.virsh.run(['list', '--all', '--name'])).trim()).toBe(vm);
  }, 120_000);

  // The definition with a NIC arrives before: it is looked at when libvirt says that the VM was reset.
  test('a drill that needs a network of its own is refused by name, and leaves nothing', async () => {
    await define("<interface type='user'><mac address='52:54:00:aa:bb:01'/></interface>");
    const before = (await target.client.group(group)).newestCheckpoint!.attributes['definitions'];
    await libvirt.virsh.run(['reset', vm]);
    await waitFor('the new definition', async () => {
      const { newestCheckpoint } = await target.client.group(group);
      return JSON.stringify(newestCheckpoint?.attributes['definitions']) !== JSON.stringify(before);
    });
    const drill = await run('netted', { kind: 'drill', arguments: { at: { by: 'latest' }, keepMinutes: 60 } });
    expect(drill).toMatchObject({ state: 'failed', error: { code: 'network-refused', path: 'recovery.testNetwork' } });
    expect(await target.client.views(group)).toEqual([]);
    expect((await libvirt.virsh.run(['list', '--all', '--name'])).trim()).toBe(vm);
    expect((await target.client.group(group)).state).toBe('protecting');
  }, 60_000);
});
