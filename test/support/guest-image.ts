/**
 * A real guest: Debian with PostgreSQL, MariaDB and Redis, made once by guest/build.sh and kept outside the checkout, in
 * ${TIDEMARK_CACHE:-~/.cache/tidemark}/guest-HASH, where HASH is that of the recipe. Needs root and Debian's packages.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Processes } from './processes.js';
import { repositoryRoot } from './paths.js';

export interface GuestImage {
  readonly directory: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** Raw images of its disks, to be copied by who starts a VM. */
export type GuestDisk = 'root' | 'data' | 'wal' | 'acks' | 'sql' | 'redo';

/** Some 60 s when packages come fast. */
const buildTimeoutMs = 600_000;
/** What lies in its directory near the end of a build: the tree, and disks made of it. */
const buildBytes = 1100 * 1024 * 1024;
const lookMs = 500;

/** Path of a disk's image. */
export function guestDisk({ directory }: GuestImage, disk: GuestDisk): string {
  return join(directory, `${disk}.raw`);
}

/** The image; built when it is not there yet, and `onBytes` is told how far, roughly. */
export async function guestImage(
  processes: Processes,
  onBytes: (doneBytes: number, totalBytes: number) => void = () => {},
): Promise<GuestImage> {
  const recipe = join(repositoryRoot(), 'test', 'support', 'guest');
  const hash = createHash('sha256');
  for (const file of readdirSync(recipe).sort()) hash.update(file).update(readFileSync(join(recipe, file)));
  const environment = process.env;
  const cache =
    environment['TIDEMARK_CACHE'] ?? join(environment['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'tidemark');
  const directory = join(cache, `guest-${hash.digest('hex').slice(0, 20)}`);
  if (!existsSync(directory)) {
    mkdirSync(cache, { recursive: true });
    const building = mkdtempSync(join(cache, 'building.'));
    const remove = (): void => rmSync(building, { recursive: true, force: true });
    process.once('exit', remove);
    try {
      // All that it starts ends with it.
      const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
      const build = ['bash', join(recipe, 'build.sh'), building];
      const built = processes.run('unshare', [...apart, ...build], { timeoutMs: buildTimeoutMs });
      const look = setInterval(() => {
        processes.run('du', ['--summarize', '--block-size=1', building]).then(
          (text) => onBytes(Math.min(parseInt(text, 10), buildBytes), buildBytes),
          () => undefined, // A file went while it looked.
        );
      }, lookMs);
      await built.finally(() => clearInterval(look));
      publish(building, directory);
    } finally {
      process.off('exit', remove);
      remove();
    }
  }
  return { directory, kernel: join(directory, 'vmlinuz'), initrd: join(directory, 'initrd') };
}

/** One rename; who comes second keeps the first one's. */
function publish(building: string, directory: string): void {
  try {
    renameSync(building, directory);
  } catch (error) {
    if (!existsSync(directory)) throw error;
  }
}
