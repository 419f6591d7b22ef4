/** Takes a stale VM off its networks, or ends it; and gives it its networks back. VMs by name or UUID. */
import type { Hypervisor } from '../hypervisor/hypervisor.js';
import type { Virsh } from '../hypervisor/virsh.js';
import { attributeOf, elementOf, elementsOf, parseXml } from '../hypervisor/xml-tree.js';

/** Each throws `vm-unknown` for a VM that is not there; one that is off is not an error. */
export interface FencingDriver {
  /** The guest reaches nobody any more; it goes on running. */
  isolate(vm: string): Promise<void>;
  /** Ends the VM at once. */
  stop(vm: string): Promise<void>;
  /** Undoes {@link isolate}. */
  rejoin(vm: string): Promise<void>;
}

/** Pulls the plug of every NIC, in the running VM alone. */
export function libvirtFencing(hypervisor: Hypervisor, virsh: Virsh): FencingDriver {
  const setLinks = async (vm: string, state: 'up' | 'down'): Promise<void> => {
    const found = await hypervisor.findVm(vm);
    if (found.state === 'off') return;
    const domain = parseXml(await virsh.run(['dumpxml', found.uuid]), 'domain', `VM ${vm}`);
    const devices = elementOf(domain, 'devices');
    for (const nic of devices === undefined ? [] : elementsOf(devices, 'interface')) {
      const mac = attributeOf(nic, ['mac'], 'address');
      if (mac !== undefined && (attributeOf(nic, ['link'], 'state') ?? 'up') !== state)
        await virsh.run(['domif-setlink', found.uuid, mac, state]);
    }
  };
  return {
    isolate: (vm) => setLinks(vm, 'down'),
    rejoin: (vm) => setLinks(vm, 'up'),
    stop: (vm) => stop(hypervisor, vm),
  };
}

/** QEMU by its monitor names no NICs that can be trusted: the guest is paused instead. */
export function monitorFencing(hypervisor: Hypervisor): FencingDriver {
  const execute = async (vm: string, command: 'stop' | 'cont', from: 'running' | 'paused'): Promise<void> => {
    const found = await hypervisor.findVm(vm);
    if (found.state !== from) return;
    const monitor = await hypervisor.monitor(found);
    try {
      await monitor.execute(command);
    } finally {
      monitor.close();
    }
  };
  return {
    isolate: (vm) => execute(vm, 'stop', 'running'),
    rejoin: (vm) => execute(vm, 'cont', 'paused'),
    stop: (vm) => stop(hypervisor, vm),
  };
}

async function stop(hypervisor: Hypervisor, vm: string): Promise<void> {
  const found = await hypervisor.findVm(vm);
  if (found.state !== 'off') await hypervisor.destroyVm(found);
}
