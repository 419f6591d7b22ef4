/** Can this machine run the tests with virtual machines? */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** What starts guests, their networks and their image; scripts/setup.sh installs all of it. */
const programs = ['qemu-system-x86_64', 'qemu-img', 'libvirtd', 'virsh', 'dnsmasq', 'ip', 'iptables', 'mmdebstrap'];

/** Why not; undefined: it can. */
export function whyNoVms(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'only on Linux, x86-64';
  if (process.getuid?.() !== 0) return 'needs root: mount namespaces, bridges, an image of a system';
  const missing = programs.filter((program) => !isInstalled(program));
  return missing.length === 0 ? undefined : `not installed: ${missing.join(', ')}`;
}

function isInstalled(program: string): boolean {
  const directories = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'];
  return directories.some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
