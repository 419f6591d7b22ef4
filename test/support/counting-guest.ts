/**
 * A guest without an operating system: its boot sector adds one to the 32-bit number at the start of sector 1, writes it
 * back, says `.` on the serial port (`E` when the disk failed), waits 20 ms, and does it again.
 *
 *   xor ax,ax; ds = es = ss = ax; sp = 0x7c00; drive = dl
 *   again: int 13h/42h reads sector 1 to 0x8000; jc bad; inc dword [0x8000]; int 13h/43h writes it; jc bad; al = '.'
 *   say: out 0x3f8, al; int 15h/86h waits 20 000 us; jmp again
 *   bad: al = 'E'; jmp say
 *
 * The guest of two disks writes the sector to drive 81h, too, before it says `.`.
 */
import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { definitionHash, type DefinitionBlob } from '../../agent/src/stream/definitions.js';
import type { VmDefinition } from '../../agent/src/hypervisor/definition.js';

const code =
  '31c08ed88ec08ed0bc007c8816447cbe457c8a16447cb442cd13722466ff060080be457c8a16447cb80043cd137211b02e' +
  'baf803ee31c9ba204eb486cd15ebcfb045ebed0010000100008000000100000000000000';

const codeForTwo =
  '31c08ed88ec08ed0bc007c8816507cbe517c8a16507cb442cd13723066ff060080be517c8a16507cb80043cd13721dbe517cb281' +
  'b80043cd137211b02ebaf803ee31c9ba204eb486cd15ebc3b045ebed0010000100008000000100000000000000';

/** Writes a bootable raw disk whose counter stands at `count`. `toBoth`: the guest of two disks. */
export function writeCountingDisk(
  path: string,
  sizeBytes: number,
  count = 0,
  { toBoth = false }: { readonly toBoth?: boolean } = {},
): void {
  const sector = Buffer.alloc(1024);
  Buffer.from(toBoth ? codeForTwo : code, 'hex').copy(sector);
  sector.writeUInt16LE(0xaa55, 510);
  sector.writeUInt32LE(count, 512);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  const file = openSync(path, 'r+');
  writeSync(file, sector, 0, sector.length, 0);
  closeSync(file);
}

export interface CountingVm {
  readonly name: string;
  readonly uuid: string;
  /** Names of the group's disks, in order vda, vdb, …; the VM boots from the first. */
  readonly disks: readonly string[];
  readonly network?: string;
  /** The firmware shows the guest all disks, and what it says stays in its log through all starts. Default false. */
  readonly countOnAll?: boolean;
}

/** Its definition as libvirt at the source would print it. */
export function countingDefinition({
  name,
  uuid,
  disks,
  network = 'production',
  countOnAll = false,
}: CountingVm): VmDefinition {
  const serial = `<source path='/source/serial.log'${countOnAll ? " append='on'" : ''}/>`;
  const targets = disks.map((disk, index) => ({ target: `vd${String.fromCodePoint(97 + index)}`, disk }));
  // Firmware starts the disks that it may boot from, and no others.
  const order = (index: number): string => (countOnAll ? `<boot order='${index + 1}'/>` : '');
  const diskXml = targets
    .map(
      ({ target }, index) => `<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file='/source/${target}.qcow2'/><target dev='${target}' bus='virtio'/>${order(index)}</disk>`,
    )
    .join('\n');
  return {
    name,
    uuid,
    domainXml: `<domain type='qemu'>
  <name>${name}</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>${countOnAll ? '' : "<boot dev='hd'/>"}</os>
  <devices>
    <emulator>/opt/source/qemu</emulator>
    ${diskXml}
    <interface type='network'><mac address='52:54:00:aa:bb:01'/><source network='${network}'/><model type='virtio'/></interface>
    <serial type='file'>${serial}</serial>
    <console type='file'>${serial}<target type='serial'/></console>
  </devices>
</domain>`,
    disks: targets,
    files: [],
  };
}

export function definitionBlob(definition: VmDefinition): DefinitionBlob {
  const content = new TextEncoder().encode(JSON.stringify(definition));
  return { hash: definitionHash(content), content };
}
