/** A small file system with fio and the libraries it needs, for guests that have none: mounted, it runs as it is. */
import { copyFileSync, mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Processes } from './processes.js';

const sizeMiB = 192;

/** Makes `DIRECTORY/fio.raw` (ext4) of this host's fio. */
export async function makeFioDisk(processes: Processes, directory: string): Promise<string> {
  const tree = join(directory, 'fio-tree');
  const image = join(directory, 'fio.raw');
  mkdirSync(join(tree, 'lib'), { recursive: true });
  const program = (await processes.run('sh', ['-c', 'command -v fio'])).trim();
  copyFileSync(program, join(tree, 'fio'));
  for (const [, file] of (await processes.run('ldd', [program])).matchAll(/(\/\S+) \(0x/g))
    copyFileSync(file!, join(tree, 'lib', basename(file!)));
  await processes.run('truncate', ['-s', `${sizeMiB}M`, image]);
  await processes.run('/sbin/mke2fs', ['-q', '-F', '-t', 'ext4', '-d', tree, image]);
  rmSync(tree, { recursive: true });
  return image;
}

/** The command line in a guest that has the disk at `mountPoint`. */
export function fioCommand(mountPoint: string, args: readonly string[]): string[] {
  const lib = `${mountPoint}/lib`;
  return [`${lib}/ld-linux-x86-64.so.2`, '--library-path', lib, `${mountPoint}/fio`, ...args];
}
