/** The file systems on a disk image: of the whole disk, or of its partitions (MBR, GPT). */
import { TidemarkError } from '../core/errors.js';
import { runTool, tryTool } from './tool.js';

/** File systems that can be browsed, with what the mount needs. The journal is replayed into the view's scratch. */
export const mountable: Readonly<Record<string, { readonly type: string; readonly options: readonly string[] }>> = {
  ext2: { type: 'ext4', options: [] },
  ext3: { type: 'ext4', options: [] },
  ext4: { type: 'ext4', options: [] },
  // The original may be mounted on this host, with the same UUID.
  xfs: { type: 'xfs', options: ['nouuid'] },
  ntfs: { type: 'ntfs-3g', options: [] },
};

export interface Volume {
  /** Partition number; 0: the whole disk. */
  readonly partition: number;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** As blkid names it; undefined: none that it knows. */
  readonly fileSystem: string | undefined;
}

const sectorBytes = 512;

export async function listVolumes(image: string, sizeBytes: number): Promise<Volume[]> {
  const whole = await fileSystemAt(image, 0);
  if (whole !== undefined) return [{ partition: 0, offsetBytes: 0, sizeBytes, fileSystem: whole }];
  const table = await tryTool('partx', ['--show', '--noheadings', '--output', 'NR,START,SECTORS', image]);
  const volumes: Volume[] = [];
  for (const line of table.code === 0 ? table.stdout.split('\n') : []) {
    const [partition = NaN, start = NaN, sectors = NaN] = line.trim().split(/\s+/).map(Number);
    const offsetBytes = start * sectorBytes;
    const partBytes = sectors * sectorBytes;
    // A table in a guest's disk is untrusted.
    if (!(partition > 0 && offsetBytes > 0 && partBytes > 0 && offsetBytes + partBytes <= sizeBytes)) continue;
    const fileSystem = await fileSystemAt(image, offsetBytes);
    volumes.push({ partition, offsetBytes, sizeBytes: partBytes, fileSystem });
  }
  return volumes;
}

/** The named partition, or the only one that can be mounted. Throws `request-invalid` with what there is. */
export function chooseVolume(volumes: readonly Volume[], partition: number | undefined): Volume {
  const fit = volumes.filter(({ fileSystem }) => fileSystem !== undefined && fileSystem in mountable);
  const chosen = partition === undefined ? fit : fit.filter((volume) => volume.partition === partition);
  if (chosen.length === 1) return chosen[0]!;
  const found = volumes.map((volume) => `${volume.partition}: ${volume.fileSystem ?? 'unknown'}`).join(', ');
  const supported = Object.keys(mountable).join(', ');
  const problem =
    fit.length > 1 && partition === undefined ? 'Several file systems: name the partition' : 'No file system to mount';
  throw new TidemarkError('request-invalid', `${problem} (partitions ${found || 'none'}; supported ${supported}).`, {
    path: 'partition',
  });
}

async function fileSystemAt(image: string, offsetBytes: number): Promise<string | undefined> {
  const args = ['-p', '-u', 'filesystem,raid', '-O', String(offsetBytes), '-s', 'TYPE', '-o', 'value', image];
  const { code, stdout, stderr } = await tryTool('blkid', args);
  // 2: nothing found, 8: ambivalent.
  if (code === 2 || code === 8) return undefined;
  if (code !== 0) throw new TidemarkError('storage-io', `blkid: ${stderr}`);
  return stdout.trim() || undefined;
}

/** A loop device over the volume; it is gone again by {@link detachLoops}. */
export function attachLoop(image: string, volume: Volume): Promise<string> {
  const range = ['--offset', String(volume.offsetBytes), '--sizelimit', String(volume.sizeBytes)];
  return runTool('losetup', ['--find', '--show', ...range, image]);
}

/** All loop devices over the image. */
export async function detachLoops(image: string): Promise<void> {
  const found = await runTool('losetup', ['--noheadings', '--output', 'NAME,BACK-FILE', '--list', '--raw']);
  for (const line of found.split('\n')) {
    const [name = '', file = ''] = line.trim().split(/\s+/, 2);
    if (file === image) await runTool('losetup', ['--detach', name]);
  }
}
