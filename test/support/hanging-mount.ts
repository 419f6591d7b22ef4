/** A file system that stops to answer when its process is stopped (SIGSTOP): ext4 in an image, by fuse2fs. */
import { mkdirSync, readFileSync } from 'node:fs';
import type { Laboratory } from './laboratory.js';
import { makeSparseFile } from './tools.js';
import { waitFor } from './wait.js';

export interface HangingMount {
  readonly directory: string;
  /** Of the process to stop and to continue. */
  readonly pid: number;
  /** Continues and unmounts it. */
  end(): Promise<void>;
}

export async function mountHanging(lab: Laboratory): Promise<HangingMount> {
  const directory = lab.path('mount');
  const image = makeSparseFile(lab.path('mount.img'), 256 * 1024 * 1024);
  mkdirSync(directory);
  await lab.processes.run('mke2fs', ['-q', '-F', '-t', 'ext4', image]);
  const server = lab.processes.start('fuse2fs', 'fuse2fs', [image, directory, '-f', '-o', 'fakeroot']);
  await waitFor('the mount', () => {
    server.failIfExited();
    return readFileSync('/proc/self/mounts', 'utf8').includes(` ${directory} `);
  });
  return {
    directory,
    pid: server.pid,
    end: async () => {
      server.child.kill('SIGCONT');
      await lab.processes.run('umount', ['-l', directory]);
      await server.stop();
    },
  };
}
