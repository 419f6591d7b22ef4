/**
 * Mounts the file system of a view's disk, read-only: nbdfuse → loop device → mount. The view is private and writable, so
 * the kernel replays a journal into its scratch; neither replica nor journal is touched. Nothing on it can be executed
 * or act as a device, yet its structures are read by this host's kernel: browse what you would also attach.
 */
import { spawn } from 'node:child_process';
import { open, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { nodeClock } from '../platform/node-clock.js';
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { runTool } from './tool.js';
import { attachLoop, chooseVolume, listVolumes, mountable, type Volume } from './volumes.js';
import { imageOf, type Workplace } from './workplace.js';

const nbdfuseMs = 15_000;

export interface MountOptions {
  /** NBD URI of the disk on this host. */
  readonly uri: string;
  readonly sizeBytes: number;
  /** Undefined: the only file system there is. */
  readonly partition: number | undefined;
}

/** What is held when it throws is given back by `tearDown`. */
export async function mountDisk(workplace: Workplace, options: MountOptions): Promise<Volume> {
  const image = imageOf(workplace);
  await serveImage(image, options.uri);
  const volume = chooseVolume(await listVolumes(image, options.sizeBytes), options.partition);
  const { type, options: own } = mountable[volume.fileSystem ?? '']!;
  const loop = await attachLoop(image, volume);
  const flags = ['ro', 'nosuid', 'nodev', 'noexec', ...own].join(',');
  await runTool('mount', ['-t', type, '-o', flags, loop, workplace.record.root], 120_000);
  return volume;
}

/** nbdfuse outlives this process: whoever tears down unmounts it, and it ends by that. */
async function serveImage(image: string, uri: string): Promise<void> {
  const said = await open(join(dirname(dirname(image)), 'nbdfuse.log'), 'w');
  const child = spawn('nbdfuse', [image, uri], { stdio: ['ignore', said.fd, said.fd], detached: true });
  let ended: string | undefined;
  child.once('error', (error) => (ended = error.message));
  child.once('exit', (code, signal) => (ended = `ended with ${signal ?? code}`));
  child.unref();
  await said.close();
  const endMs = nodeClock.monotonicMs() + nbdfuseMs;
  for (;;) {
    if ((await stat(image).catch(() => undefined)) !== undefined) return;
    if (ended !== undefined) throw new TidemarkError('storage-io', `nbdfuse (Debian package libnbd-bin): ${ended}.`);
    if (nodeClock.monotonicMs() > endMs) throw new TidemarkError('timed-out', 'nbdfuse shows no disk in time.');
    await sleep(nodeClock, 50);
  }
}
