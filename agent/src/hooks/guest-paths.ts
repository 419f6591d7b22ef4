/** Whether what lies at a path in the guest is on a disk that the group captures. */
import { TidemarkError } from '../core/errors.js';
import type { GuestSession } from './guest-session.js';
import type { Finding } from './hook.js';
import { isWindowsPath, unprotectedWindowsPath } from './windows-paths.js';

/** For each path: file system type, its source, and the disks below it with how they are attached. */
const script = `for path; do
  real=$(realpath -e -- "$path") || { echo "$path	missing"; continue; }
  if [ -b "$real" ]; then set -- raw "$real"; else set -- $(df --output=fstype,source -- "$real" | tail -n 1); fi
  case $2 in
    /dev/*) echo "$path	$1	$2	$(lsblk -nrso NAME,TYPE,TRAN -- "$2" | awk '$2 == "disk" || $2 == "loop" { printf "%s:%s ", $1, $3 }')" ;;
    *) echo "$path	$1	$2	" ;;
  esac
done`;
/** Each path by its own shell, since the script takes its arguments apart. */
const runMs = 10_000;
/** Block devices that are no disks of the VM. */
const foreign = /^(nbd|rbd|drbd|loop|zram)\d|:(iscsi|fc|fcoe|tcp|rdma)$/;

/** `notCaptured`: names of disks of the VM that no group member captures; with one of them nothing can be told apart. */
export async function unprotectedPaths(
  guest: GuestSession,
  paths: readonly string[],
  notCaptured: readonly string[],
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const path of new Set(paths)) {
    if (isWindowsPath(path)) {
      findings.push(...(await unprotectedWindowsPath(guest, path, notCaptured)));
      continue;
    }
    const { exitCode, stdout, stderr } = await guest.run(['/bin/sh', '-c', script, 'sh', path], { timeoutMs: runMs });
    const [, type = '', source = '', disks = ''] = stdout.trimEnd().split('\t');
    if (exitCode !== 0 || type === '')
      throw new TidemarkError('hook-failed', `Where ${path} lies could not be seen: ${stderr.slice(-300)}`);
    const why = reasonOf(type, source, disks.trim().split(' '), notCaptured);
    if (why !== undefined) findings.push({ code: 'data-unprotected', reason: `${path} ${why}` });
  }
  return findings;
}

function reasonOf(
  type: string,
  source: string,
  disks: readonly string[],
  notCaptured: readonly string[],
): string | undefined {
  if (type === 'missing') return 'is not there';
  if (!source.startsWith('/dev/')) return `lies on ${type} (${source}), which is on no disk of the VM`;
  const away = disks.find((disk) => disk === '' || foreign.test(disk));
  if (away !== undefined) return `lies on ${source}, which is on no disk of the VM (${away || 'none found'})`;
  if (notCaptured.length === 0) return undefined;
  return `cannot be shown to lie on a captured disk: the group has not ${notCaptured.join(', ')} of this VM`;
}
