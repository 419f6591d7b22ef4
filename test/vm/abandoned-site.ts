/**
 * Says `{ pid, qemuPid, bridge }` of itself, of a VM that it runs and of its network, and waits to be killed: a test run
 * that ends without cleaning up. `run-ts test/vm/abandoned-site.ts DIRECTORY`
 */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeCountingDisk } from '../support/counting-guest.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { Processes } from '../support/processes.js';

const [directory = ''] = process.argv.slice(2);
const libvirt = await PrivateLibvirt.start(new Processes(directory), join(directory, 'v'));
const { virsh } = libvirt;
const network = join(directory, 'lan.xml');
writeFileSync(
  network,
  `<network><name>lan</name><bridge stp='off' delay='0'/>
  <ip address='10.79.0.1' netmask='255.255.255.0'><dhcp><range start='10.79.0.10' end='10.79.0.20'/></dhcp></ip></network>`,
);
await virsh.run(['net-create', network]);
const disk = join(directory, 'disk.raw');
writeCountingDisk(disk, 1024 * 1024);
const vm = join(directory, 'vm.xml');
writeFileSync(
  vm,
  `<domain type='qemu'><name>count</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/><target dev='vda'/></disk>
  <interface type='network'><source network='lan'/></interface></devices></domain>`,
);
await virsh.run(['create', vm]);
const bridge = /<bridge name='([^']*)'/.exec(await virsh.run(['net-dumpxml', 'lan']))?.[1];
process.stdout.write(`${JSON.stringify({ pid: process.pid, qemuPid: libvirt.qemuPid('count'), bridge })}\n`);
await once(process, 'never');
