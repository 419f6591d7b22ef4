/** Hypervisors of the configuration, made once each. */
import type { HypervisorConfig } from '../config/schema-hypervisors.js';
import type { Clock } from '../core/clock.js';
import type { Hypervisor } from './hypervisor.js';
import { LibvirtHypervisor } from './libvirt.js';
import { QmpHypervisor } from './qmp.js';
import { Virsh } from './virsh.js';

export function openHypervisor(config: HypervisorConfig, clock: Clock): Hypervisor {
  if (config.kind === 'qmp') return new QmpHypervisor({ ...config, clock });
  return new LibvirtHypervisor({ name: config.name, virsh: new Virsh({ uri: config.uri }), clock });
}
