import { describe, expect, test } from '@jest/globals';
import type { VmDefinition } from '../../agent/src/hypervisor/definition.js';
import { isoImage } from '../../agent/src/recovery/iso-image.js';
import type { OwnerMark } from '../../agent/src/recovery/owner-mark.js';
import { recoveryXml, type NicAddress, type RecoveryXmlOptions } from '../../agent/src/recovery/recovery-xml.js';

const uuid = '6f2d5a1c-8a0b-4a53-9d1a-0b8f54a1c001';

const mark: OwnerMark = { agent: 'target', group: 'shop', operation: 'op-1', purpose: 'live', vm: 'db' };

function definition(devices: string, extra = ''): VmDefinition {
  return {
    name: 'db',
    uuid,
    domainXml: `<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
      <name>db</name><uuid>${uuid}</uuid><genid>0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a</genid>
      <metadata><app:note xmlns:app='urn:app'>kept</app:note></metadata>
      <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
        <loader readonly='yes' type='pflash'>/usr/share/OVMF.fd</loader><nvram template='/x'>/var/lib/db.fd</nvram></os>
      <seclabel type='dynamic'/>${extra}
      <devices><emulator>/usr/libexec/qemu</emulator>${devices}</devices></domain>`,
    disks: [
      { target: 'vda', disk: 'db-vda' },
      { target: 'vdb', disk: 'db-vdb' },
    ],
    files: [
      { role: 'nvram', contentBase64: Buffer.from('variables').toString('base64') },
      { role: 'sda', contentBase64: Buffer.from('seed').toString('base64') },
    ],
  };
}

const disks = `
  <disk type='block' device='disk'><driver name='qemu' type='raw' cache='writeback' io='threads'/><source dev='/dev/vg/db'/>
    <backingStore/><target dev='vda' bus='virtio'/><boot order='1'/><serial>S1</serial></disk>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/x.qcow2'/><target dev='vdb' bus='virtio'/></disk>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/swap'/><target dev='vdc' bus='virtio'/></disk>
  <disk type='file' device='cdrom'><source file='/seed.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
  <disk type='file' device='cdrom'><source file='/debian.iso'/><target dev='sdb' bus='sata'/><readonly/></disk>`;

const nics = `
  <interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan' portid='x'/><target dev='vnet7'/>
    <filterref filter='clean'/><model type='virtio'/><address type='pci' slot='0x03'/></interface>
  <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='virtio'/></interface>`;

const others = `
  <serial type='tcp'><source mode='bind' host='0.0.0.0' service='4555'/><protocol type='raw'/><target port='0'/></serial>
  <channel type='unix'><source mode='bind' path='/run/db.agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  <graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics>
  <vsock model='virtio'><cid auto='no' address='3'/></vsock>`;

function make(options: Partial<RecoveryXmlOptions> = {}): ReturnType<typeof recoveryXml> {
  return recoveryXml({
    definition: definition(disks + nics + others),
    mark,
    disk: (name) => ({ kind: 'nbd', socket: '/run/nbd.sock', exportName: `shop/view/${name}` }),
    network: (from) => ({ lan: 'dr-lan', 'bridge:br0': 'bridge:br9' })[from] ?? from,
    mac: 'keep',
    directory: '/m/1',
    ...options,
  });
}

describe('the XML that a VM is recovered with', () => {
  test('name, UUID and hardware stay; disks stop the VM on an error', () => {
    const { xml, name, disksLeftOut, files } = make();
    expect(name).toBe('db');
    expect(xml).toContain(`<uuid>${uuid}</uuid>`);
    expect(xml).toContain('<app:note xmlns:app="urn:app">kept</app:note>');
    expect(xml).toContain('operation="op-1"');
    expect(xml.match(/error_policy="stop"/g)).toHaveLength(4); // and rerror_policy
    expect(xml).toContain(
      '<source protocol="nbd" name="shop/view/db-vda"><host transport="unix" socket="/run/nbd.sock"/>',
    );
    expect(xml).toContain('<serial>S1</serial>');
    expect(xml).toContain('<boot order="1"/>');
    expect(disksLeftOut).toEqual(['vdc']);
    expect(files.map(({ path, content }) => [path, content.toString()])).toEqual([
      ['/m/1/nvram.fd', 'variables'],
      ['/m/1/sda.img', 'seed'],
    ]);
    expect(xml).toContain('/m/1/nvram.fd</nvram>');
    for (const gone of [
      '/dev/vg/db',
      'qcow2',
      '/swap',
      'debian.iso',
      'emulator',
      'seclabel',
      'vnet7',
      'portid',
      '5901',
      '4555',
      '/run/db.agent',
    ])
      expect(xml).not.toContain(gone);
    expect(xml).not.toContain('0a0a0a0a-0a0a');
    expect(xml).not.toMatch(/<domain[^>]* id=/);
  });

  test('NICs go to the mapped networks with their MAC, or a new one that is always the same', () => {
    expect(make().nics).toEqual([
      { mac: '52:54:00:00:00:01', network: 'dr-lan' },
      { mac: '52:54:00:00:00:02', network: 'bridge:br9' },
    ]);
    const changed = make({ mac: 'new' }).nics;
    expect(changed).toEqual(make({ mac: 'new' }).nics);
    expect(changed[0]?.mac).toMatch(/^52:54:00:/);
    expect(changed[0]?.mac).not.toBe('52:54:00:00:00:01');
  });

  test('a drill has another name and UUID, the same each time, and no filters of the source', () => {
    const drill = { mark: { ...mark, purpose: 'drill' as const }, suffix: '-drill-1' };
    const made = make(drill);
    expect(made.name).toBe('db-drill-1');
    expect(made.uuid).not.toBe(uuid);
    expect(made.uuid).toBe(make(drill).uuid);
    expect(made.xml).not.toContain('filterref');
    expect(make().xml).toContain('filterref');
  });

  test.each([
    ['<hostdev mode="subsystem" type="pci"/>', 'a host device'],
    ['<filesystem type="mount"/>', 'a host directory'],
    ['<tpm model="tpm-crb"/>', 'a TPM'],
    ['<interface type="hostdev"/>', 'a NIC of the host'],
  ])('%s cannot move', (device, words) => {
    expect(() => make({ definition: definition(disks + device) })).toThrow(words);
  });

  test('arguments that bring networks or disks of their own are refused', () => {
    const extra = "<qemu:commandline><qemu:arg value='-netdev'/><qemu:arg value='user,id=n'/></qemu:commandline>";
    expect(() => make({ definition: definition(disks, extra) })).toThrow('-netdev');
  });

  test('a VM of which no disk is protected, or that is known by its monitor alone, is refused', () => {
    expect(() => make({ disk: () => undefined })).toThrow('none of its disks');
    expect(() => make({ definition: { ...definition(''), domainXml: '' } })).toThrow('monitor');
    expect(() => make({ definition: { ...definition(''), domainXml: '<domain><oops></domain>' } })).toThrow(
      'no <domain>',
    );
  });
});

describe('addresses by cloud-init', () => {
  const seedMedium = isoImage('cidata', [{ name: 'user-data', content: Buffer.from('#cloud-config') }]);
  const dhcp = new Map<number, NicAddress>([
    [0, { addressing: 'dhcp' }],
    [1, { name: 'ens4', addressing: { addresses: ['10.9.0.5/24'], gateways: [], dns: [] } }],
  ]);
  const withSeed = (): VmDefinition => {
    const made = definition(disks + nics + others);
    return {
      ...made,
      files: [
        ...made.files.filter(({ role }) => role === 'nvram'),
        { role: 'sda', contentBase64: seedMedium.toString('base64') },
      ],
    };
  };
  const medium = (options: Partial<RecoveryXmlOptions>): string =>
    make({ definition: withSeed(), ...options })
      .files.find(({ path }) => path === '/m/1/sda.img')!
      .content.toString();

  test('the medium is made anew, with the MAC addresses of the recovered VM and an instance of this operation', () => {
    const kept = medium({ cloudInit: dhcp });
    expect(kept).toContain('52:54:00:00:00:01');
    expect(kept).toContain('10.9.0.5/24');
    expect(kept).not.toBe(seedMedium.toString());
    expect(medium({ cloudInit: dhcp })).toBe(kept);
    expect(medium({ cloudInit: dhcp, mark: { ...mark, operation: 'op-2' } })).not.toBe(kept);
    const { nics: made } = make({ definition: withSeed(), cloudInit: dhcp, mac: 'new' });
    expect(medium({ cloudInit: dhcp, mac: 'new' })).toContain(made[1]!.mac);
  });

  test('without a new address it stays as it is', () => {
    for (const cloudInit of [
      undefined,
      new Map<number, NicAddress>(),
      new Map<number, NicAddress>([[0, { addressing: 'keep' }]]),
    ])
      expect(medium({ cloudInit })).toBe(seedMedium.toString());
  });

  test('refused: no such medium, a NIC left out, a NIC that is not there', () => {
    expect(() => make({ cloudInit: dhcp })).toThrow('no NoCloud medium');
    expect(() => medium({ cloudInit: new Map<number, NicAddress>([[0, { addressing: 'dhcp' }]]) })).toThrow(
      'NIC 1 has no address',
    );
    expect(() => medium({ cloudInit: new Map<number, NicAddress>([...dhcp, [2, { addressing: 'dhcp' }]]) })).toThrow(
      'no NIC 2',
    );
  });
});
