/**
 * Where journals lie: a directory, or a block device with a file system of its own that is mounted there. A device is
 * formatted only when nothing is on it: no signature that blkid or wipefs knows, no mount, no part or holder, and zeros in
 * its first and last MiB. The file system's UUID is made from the resource's, so that a create that was cut short knows its
 * own again.
 */
import { createHash } from 'node:crypto';
import { TidemarkError } from '../agent-client.js';
import type { Host } from './host.js';
import { sh, writeFile } from './scripts.js';

export interface Volume {
  readonly directory: string;
  readonly device: string;
  readonly fileSystem: 'ext4' | 'xfs';
  readonly uuid: string;
}

const formatMs = 600_000;

/** A UUID that the same owner always gets. */
export function volumeUuid(owner: string): string {
  const hex = createHash('sha256').update(owner).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Throws `device-not-empty` for anything that may be somebody's data; nothing was changed then. */
export async function prepareVolume(host: Host, { directory, device, fileSystem, uuid }: Volume): Promise<void> {
  const on = (await host.run('blkid -p -s UUID -o value "$1"', [device])).stdout.trim();
  if (on !== uuid) {
    await refuseUsed(host, device);
    const script = 'case "$2" in xfs) mkfs.xfs -q -m uuid="$3" "$1" ;; ext4) mkfs.ext4 -q -U "$3" "$1" ;; esac';
    await sh(host, `formatting ${device}`, script, [device, fileSystem, uuid], { timeoutMs: formatMs });
  }
  // The same script mounts it again where no systemd does.
  await writeFile(host, `${directory}.mount`, mountScript(uuid, fileSystem), '0700');
  await sh(host, `mounting ${device}`, 'sh "$1.mount" "$1"', [directory]);
}

/** The file system stays on the device as it is, unless it is to go. */
export async function releaseVolume(host: Host, volume: Volume, data: 'keep' | 'remove'): Promise<void> {
  const { directory, device, uuid } = volume;
  const script = `if mountpoint -q "$1"; then umount "$1" || exit; fi; rm -f "$1.mount"; rmdir "$1" 2>/dev/null
    [ "$3" = remove ] && [ "$(blkid -p -s UUID -o value "$2")" = "$4" ] || exit 0
    wipefs -q -a "$2"`;
  await sh(host, `releasing ${device}`, script, [directory, device, data, uuid]);
}

/** Each line that it prints is a reason. */
const usedScript = `[ -b "$1" ] || { echo "it is no block device"; exit 0; }
  for tool in blkid wipefs lsblk findmnt blockdev; do
    command -v $tool >/dev/null || { echo "the host has no $tool to look at it with"; exit 0; }
  done
  found=$(blkid -p "$1" 2>&1); [ $? = 2 ] || echo "blkid: $found"
  found=$(wipefs --no-act --noheadings "$1" 2>&1); [ -z "$found" ] || echo "wipefs: $found"
  found=$(findmnt -n -o TARGET -S "$1"); [ -z "$found" ] || echo "it is mounted at $found"
  [ "$(lsblk -n -o NAME "$1" | wc -l)" = 1 ] || echo "something is on it: $(lsblk -n -r -o NAME "$1" | tail -n +2 | tr "\\n" " ")"
  size=$(blockdev --getsize64 "$1")
  mib=1048576
  [ "$(head -c $mib "$1" | tr -d "\\0" | head -c 1 | wc -c)" = 0 ] || echo "its first MiB is not zeros"
  [ "$(tail -c $mib "$1" | tr -d "\\0" | head -c 1 | wc -c)" = 0 ] || echo "its last MiB is not zeros"
  [ "$size" -ge $((64 * mib)) ] || echo "it has $size bytes, fewer than 64 MiB"`;

async function refuseUsed(host: Host, device: string): Promise<void> {
  const reasons = (await sh(host, `looking at ${device}`, usedScript, [device])).trim();
  if (reasons === '') return;
  throw new TidemarkError(
    'device-not-empty',
    `${device} on ${host.name} is not formatted, because it may hold data: ${reasons.split('\n').join('; ')}.`,
    { path: 'device' },
  );
}

/** \`FILE DIRECTORY\` */
function mountScript(uuid: string, fileSystem: string): string {
  return `#!/bin/sh
# Mounts the journal's file system. Never another one, and never an empty directory in its place.
mountpoint -q "$1" && exit
device=$(blkid -l -t UUID=${uuid} -o device) || { echo "no device has the file system ${uuid}" >&2; exit 1; }
mkdir -p "$1" && mount -t ${fileSystem} -o nodev,nosuid,noexec "$device" "$1" && chmod 0700 "$1"
`;
}
