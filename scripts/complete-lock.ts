/**
 * Adds to package-lock.json the platform packages (`x-darwin-arm64` and the like) that a partial registry mirror does
 * not hold. `npm ci` refuses a lock without them, although it never fetches those of other platforms.
 * Run by `node --run lock`, after npm has written the lock.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './lib/bundle.ts';

interface Entry {
  version?: string;
  resolved?: string;
  dev?: boolean;
  optional?: boolean;
  os?: string[];
  cpu?: string[];
  optionalDependencies?: Record<string, string>;
}

const systems = ['android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'aix', 'win32'];
const processors = ['arm64', 'arm', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'x64'];

const path = join(root, 'package-lock.json');
const lock = JSON.parse(readFileSync(path, 'utf8')) as { packages: Record<string, Entry> };

for (const entry of Object.values({ ...lock.packages })) {
  delete entry.resolved;
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const key = `node_modules/${name}`;
    if (key in lock.packages) continue;
    const words = name.split(/[/-]/);
    const os = systems.filter((system) => words.includes(system));
    const cpu = processors.filter((processor) =>
      words.some((word) => word === processor || word === `${processor}eabi`),
    );
    if (words.some((word) => word === 'gnueabihf' || word === 'musleabihf' || word === 'eabi') && cpu.length === 0) {
      cpu.push('arm');
    }
    if (os.length !== 1 || cpu.length !== 1) throw new Error(`${name} is not in the lock, and no platform package`);
    lock.packages[key] = { version, cpu, ...(entry.dev ? { dev: true } : {}), optional: true, os };
  }
}

lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => a.localeCompare(b, 'en')));
writeFileSync(path, `${JSON.stringify(lock, null, 2)}\n`);
