/** Whether what lies at a path in a Windows guest is on a disk that the group captures. */
import { TidemarkError } from '../core/errors.js';
import type { GuestSession } from './guest-session.js';
import type { Finding } from './hook.js';
import { powershell } from './powershell.js';

const runMs = 30_000;
/** Of disks of a VM; anything else is a network, a pool, or not known. */
const ownBuses = /^(SCSI|SATA|ATA|SAS|NVMe)$/;

export function isWindowsPath(path: string): boolean {
  return /^([A-Za-z]:)?[\\]/.test(path) || /^[A-Za-z]:$/.test(path);
}

/** As unprotectedPaths (guest-paths.ts). */
export async function unprotectedWindowsPath(
  guest: GuestSession,
  path: string,
  notCaptured: readonly string[],
): Promise<Finding[]> {
  const find = (why: string): Finding[] => [{ code: 'data-unprotected', reason: `${path} ${why}` }];
  if (path.startsWith('\\\\')) return find('lies on a share of the network');
  if (path.includes('"')) throw new TidemarkError('hook-failed', `${path} is no path of Windows.`);
  const said = await powershell(guest, scriptOf(path), runMs);
  const [, type = '', buses = ''] = /^tm-volume\|([^|]*)\|(.*)$/m.exec(said) ?? [];
  if (type !== 'Fixed') return find(`lies on a volume of type ${type || 'unknown'}`);
  const foreign = buses.split(',').find((bus) => !ownBuses.test(bus));
  if (foreign !== undefined) return find(`lies on no disk of the VM that can be seen (bus ${foreign || 'unknown'})`);
  if (notCaptured.length === 0) return [];
  return find(`cannot be shown to lie on a captured disk: the group has not ${notCaptured.join(', ')} of this VM`);
}

/** Dynamic volumes and storage pools have no partition: no bus. */
function scriptOf(path: string): string {
  return `$ErrorActionPreference = 'Stop'
$volume = Get-Volume -FilePath '${path.replaceAll("'", "''")}'
$buses = $volume | Get-Partition -ErrorAction SilentlyContinue | Get-Disk | ForEach-Object { $_.BusType }
Write-Output ('tm-volume|' + $volume.DriveType + '|' + ($buses -join ','))`;
}
