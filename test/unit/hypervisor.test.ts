/** What hypervisors say, taken apart: QMP from a hostile monitor, domain XML, virsh's lines, definitions. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parseDomain, refusalOf } from '../../agent/src/hypervisor/domain-xml.js';
import { libvirtDefinition } from '../../agent/src/hypervisor/libvirt-definition.js';
import { parseMonitorEvent, parseVmEvent } from '../../agent/src/hypervisor/libvirt-events.js';
import type { MonitorEvent } from '../../agent/src/hypervisor/monitor.js';
import { QmpSocket } from '../../agent/src/hypervisor/qmp-socket.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { groupDiskName } from '../../agent/src/runtime/vm-plans.js';

let directory = '';
let server: Server | undefined;
const sockets = new Set<Socket>();

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-qmp-'));
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  server = undefined;
  rmSync(directory, { recursive: true });
});

const greeting = '{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}\r\n';

/** A monitor that says `first`, then answers each command by `answer` (given its id and name). */
function monitorThat(first: string, answer: (id: number, command: string) => string): Promise<string> {
  const path = join(directory, 'qmp.sock');
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.write(first);
    socket.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) {
        const { id, execute } = JSON.parse(line) as { id: number; execute: string };
        socket.write(execute === 'qmp_capabilities' ? `{"return": {}, "id": ${id}}\n` : answer(id, execute));
      }
    });
  });
  return new Promise((resolve) => server!.listen(path, () => resolve(path)));
}

describe('QMP by socket', () => {
  test('replies find their commands whatever their order and cut; events go to listeners', async () => {
    const held: number[] = [];
    const path = await monitorThat(greeting, (id) => {
      held.push(id);
      if (held.length < 2) return '';
      const [a, b] = held.splice(0);
      return `{"return": "b", "id": ${b}}\n{"event": "RESET", "data": {"guest": true}, "timestamp": {}}\n{"return": "a", "id": ${a}}\n`;
    });
    const monitor = await QmpSocket.open(path, nodeClock);
    const events: MonitorEvent[] = [];
    monitor.onEvent((event) => events.push(event));
    await expect(Promise.all([monitor.execute('one'), monitor.execute('two')])).resolves.toEqual(['a', 'b']);
    expect(events).toEqual([{ name: 'RESET', data: { guest: true } }]);
    monitor.close();
    await expect(monitor.execute('three')).rejects.toMatchObject({ code: 'hypervisor-unreachable' });
  });

  test("QEMU's refusal keeps its class; no answer in time is timed-out, and a late one hurts nobody", async () => {
    let late = '';
    const path = await monitorThat(greeting, (id, command) => {
      if (command === 'slow') {
        late = `{"return": {}, "id": ${id}}\n`;
        return '';
      }
      return `${late}{"error": {"class": "DeviceNotFound", "desc": "no such device"}, "id": ${id}}\n`;
    });
    const monitor = await QmpSocket.open(path, nodeClock);
    await expect(monitor.execute('slow', {}, 50)).rejects.toMatchObject({ code: 'timed-out' });
    await expect(monitor.execute('bad')).rejects.toMatchObject({
      code: 'hypervisor-failed',
      qmpClass: 'DeviceNotFound',
      message: expect.stringContaining('no such device'),
    });
    monitor.close();
  });

  test.each([
    ['no QMP at all', 'HTTP/1.1 400 Bad Request\r\n'],
    ['another greeting', '{"hello": 1}\n'],
    ['an unfinished line without end', `{"QMP": "${'x'.repeat(17 * 1024 * 1024)}`],
  ])('%s is refused', async (_name, first) => {
    const path = await monitorThat(first, () => '');
    await expect(QmpSocket.open(path, nodeClock)).rejects.toMatchObject({ code: 'hypervisor-unreachable' });
  });

  test.each([
    ['rubbish', 'rubbish\n'],
    ['neither reply nor event', '{"id": 2}\n'],
  ])('%s after the greeting ends the monitor and every command', async (_name, line) => {
    const path = await monitorThat(greeting, () => line);
    const monitor = await QmpSocket.open(path, nodeClock);
    await expect(monitor.execute('query-status')).rejects.toMatchObject({ code: 'hypervisor-unreachable' });
    await monitor.closed;
  });

  test('a socket that is not there', async () => {
    await expect(QmpSocket.open(join(directory, 'none'), nodeClock)).rejects.toMatchObject({
      code: 'hypervisor-unreachable',
    });
  });
});

const domainXml = (devices: string, more = ''): string =>
  `<domain type='kvm'><name>db</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>${more}<devices>${devices}</devices></domain>`;

describe('domain XML', () => {
  test('which disks can be captured, and why not', () => {
    const disk = (target: string, attributes: string, inner: string): string =>
      `<disk ${attributes}>${inner}<target dev='${target}' bus='virtio'/></disk>`;
    const qcow2 = "<driver name='qemu' type='qcow2'/>";
    const raw = "<driver name='qemu' type='raw'/>";
    const { disks } = parseDomain(
      domainXml(
        [
          disk('vda', "type='file' device='disk'", `${qcow2}<source file='/a.qcow2'/><alias name='virtio-disk0'/>`),
          disk('vdb', "type='block' device='disk'", `${raw}<source dev='/dev/vg/b'/>`),
          disk('vdc', "type='network' device='disk'", `${raw}<source protocol='rbd' name='pool/c'/>`),
          disk('vdd', "type='file' device='disk'", `${raw}<source file='/d'/><shareable/>`),
          disk('vde', "type='file' device='disk'", `${raw}<source file='/e'/><readonly/>`),
          disk('sda', "type='file' device='cdrom'", `<readonly/>`),
          disk('sdb', "type='block' device='lun'", `${raw}<source dev='/dev/sdb'/>`),
          disk('vdf', "type='file' device='disk'", `<driver name='qemu' type='vmdk'/><source file='/f'/>`),
          disk('vdg', "type='file' device='disk'", `${raw}<source file='/g'/><mirror type='file' job='copy'/>`),
        ].join(''),
      ),
    );
    expect(disks.map((each) => [each.target, refusalOf(each)?.split(':')[0]])).toEqual([
      ['vda', undefined],
      ['vdb', undefined],
      ['vdc', undefined],
      ['vdd', 'shared with other VMs'],
      ['vde', 'read-only'],
      ['sda', 'a cdrom'],
      ['sdb', 'a SCSI pass-through device'],
      ['vdf', 'its format vmdk is not supported'],
      ['vdg', 'libvirt runs a copy job on it'],
    ]);
    expect(disks[0]).toMatchObject({ alias: 'virtio-disk0', format: 'qcow2', source: '/a.qcow2' });
    expect(disks[2]?.source).toBe('rbd:pool/c');
  });

  test('what is no domain is refused', () => {
    expect(() => parseDomain('<network/>')).toThrow(expect.objectContaining({ code: 'hypervisor-failed' }));
    expect(() => parseDomain('not xml')).toThrow(expect.objectContaining({ code: 'hypervisor-failed' }));
  });
});

describe('definitions', () => {
  test('firmware variables and small media travel, installation media and missing files do not', async () => {
    writeFileSync(join(directory, 'vars.fd'), 'variables');
    writeFileSync(join(directory, 'seed.iso'), 'cloud-init');
    const cd = (target: string, file: string): string =>
      `<disk type='file' device='cdrom'><source file='${join(directory, file)}'/><target dev='${target}'/><readonly/></disk>`;
    const xml = domainXml(
      cd('sda', 'seed.iso') + cd('sdb', 'gone.iso'),
      `<os><nvram>${join(directory, 'vars.fd')}</nvram></os>`,
    );
    const definition = await libvirtDefinition('db', xml, [{ target: 'vda', disk: 'db-vda' }]);
    expect(definition.files.map(({ role, contentBase64 }) => [role, atob(contentBase64)])).toEqual([
      ['nvram', 'variables'],
      ['sda', 'cloud-init'],
    ]);
    expect(definition.disks).toEqual([{ target: 'vda', disk: 'db-vda' }]);
  });

  test('a vTPM is refused, not dropped', async () => {
    const xml = domainXml("<tpm model='tpm-crb'><backend type='emulator'/></tpm>");
    await expect(libvirtDefinition('db', xml, [])).rejects.toMatchObject({
      code: 'vm-refused',
      message: expect.stringContaining('TPM'),
    });
  });
});

describe("virsh's events", () => {
  test.each([
    ["2026-11-23 03:46:35.904+0000: event 'lifecycle' for domain 'db': Started Booted", 'db', 'started'],
    ["2026-11-23 03:46:38.392+0000: event 'lifecycle' for domain 'db': Stopped Destroyed", 'db', 'stopped'],
    ["2026-11-23 03:46:38.392+0000: event 'lifecycle' for domain 'db': Stopped Migrated", 'db', 'migrated'],
    ["2026-11-23 03:46:38.392+0000: event 'lifecycle' for domain 'db': Crashed Panicked", 'db', 'crashed'],
    ["2026-11-23 03:46:36.587+0000: event 'reboot' for domain 'it's': ", "it's", 'rebooted'],
    ["2026-11-23 03:46:36.587+0000: event 'device-added' for domain 'db': virtio-disk5", 'db', 'disk-added'],
  ])('%s', (line, vm, kind) => expect(parseVmEvent(line)).toEqual({ vm, kind }));

  test('what is of no interest, or rubbish', () => {
    for (const line of ['', 'error: x', "2026 1: event 'lifecycle' for domain 'db': Defined Added"])
      expect(parseVmEvent(line)).toBeUndefined();
  });

  test('of the monitor, with and without data', () => {
    const head = '2026-11-23 03:46:36.579+0000: event';
    expect(parseMonitorEvent(`${head} STOP for domain 'db': <null>`)).toEqual({ name: 'STOP', vm: 'db', data: {} });
    expect(parseMonitorEvent(`${head} BLOCK_JOB_ERROR for domain 'db': {"device":"x","action":"report"}`)).toEqual({
      name: 'BLOCK_JOB_ERROR',
      vm: 'db',
      data: { device: 'x', action: 'report' },
    });
    expect(parseMonitorEvent(`${head} STOP for domain 'db': {cut`)?.data).toEqual({});
  });
});

test("a group's name for a VM's disk has the letters that names may have", () => {
  expect(groupDiskName('db', 'vda')).toBe('db-vda');
  expect(groupDiskName('Büro Server', 'vda')).toBe('b-ro-server-vda');
  expect(groupDiskName('_x', 'sda')).toBe('x-sda');
});
