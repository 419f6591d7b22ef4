/**
 * What VMs may run on below an agent's data directory: disks that a commit made, and what is written to open views. No destroy
 * deletes it: the agent may be dead, so the files themselves are looked at.
 */
import { TidemarkError } from '../agent-client.js';
import type { Host } from './host.js';
import { sh } from './scripts.js';

export interface LiveFiles {
  /** Disks, firmware variables and media of VMs that run here, and disks of groups that were given up since. */
  readonly committed: readonly string[];
  /** Of views that are open, or kept after a rollback. */
  readonly views: readonly string[];
}

/** What cannot be looked at is an error, never nothing. */
const script = `if [ -e "$2.mount" ]; then sh "$2.mount" "$2" || exit; fi
  [ -e "$1" ] || exit 0
  cd "$1" || exit
  views= committed= machines=
  if [ -e groups ]; then
    views=$(find groups -maxdepth 4 -path 'groups/*/views/*/*' ! -path 'groups/.retired/*') || exit
    committed=$(find groups -maxdepth 4 -path 'groups/*/committed/*') || exit
  fi
  if [ -e machines ]; then machines=$(find machines -type f) || exit; fi
  tell() { printf '%s\n' "$2" | head -n 20 | sed -n "s/^./$1 &/p"; }
  tell view "$views"; tell committed "$committed"; tell committed "$machines"`;
const shownCount = 5;

/** Of each kind at most 40. `mountPoint`: of the journal, mounted first when it has a device of its own; empty: none. */
export async function liveFiles(host: Host, dataDirectory: string, mountPoint: string): Promise<LiveFiles> {
  const lines = (await sh(host, `looking at ${dataDirectory}`, script, [dataDirectory, mountPoint])).split('\n');
  const below = (kind: string): string[] =>
    lines.flatMap((line) => (line.startsWith(`${kind} `) ? [`${dataDirectory}/${line.slice(kind.length + 1)}`] : []));
  return { committed: below('committed'), views: below('view') };
}

/** Throws `illegal-state` when there are files; `why` says what they are, `hint` what to do. */
export function refuseLive(host: Host, files: readonly string[], why: string, hint: string): void {
  if (files.length === 0) return;
  const shown = files.slice(0, shownCount).join(', ');
  const more = files.length > shownCount ? ` and ${files.length - shownCount} more` : '';
  throw new TidemarkError('illegal-state', `On ${host.name} ${why}: ${shown}${more}. ${hint}`, {
    path: 'forceDestroy',
  });
}

/** With these files VMs would lose their disks, whatever becomes of the agent. */
export function refuseDeletion(host: Host, { committed }: LiveFiles): void {
  refuseLive(
    host,
    committed,
    'there are files of VMs that were recovered here, or disks that were committed',
    'Move those VMs away or delete the files by hand; forceDestroy does not.',
  );
}
