/** tidemark files mount | list | copy: files out of a checkpoint, without booting anything. */
import { lstat, mkdir, readdir, readlink } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import { browse, giveBack, type Browsed, type BrowseHost } from '../../files/browse.js';
import { guestPath } from '../../files/guest-path.js';
import { runTool } from '../../files/tool.js';
import { parseSelector } from '../../service/selector.js';
import type { Session } from '../command.js';
import { withSession, type CliContext } from '../command.js';
import { resolveContext, type GlobalOptions } from '../context.js';
import { formatBytes, formatTable, formatTime, oneLine } from '../format.js';
import { atHelp } from './views.js';

interface BrowseOptions {
  at: string;
  disk?: string;
  partition?: string;
}

const copyMs = 24 * 3600 * 1000;

export function addFilesCommands(program: Command, context: CliContext): void {
  const files = program
    .command('files')
    .description('browse and copy files out of a checkpoint (on the agent host, as root; ext2-4, xfs, ntfs)');
  const run = (
    command: Command,
    group: string,
    options: BrowseOptions,
    root: string | undefined,
    use: (session: Session, browsed: Browsed) => Promise<void>,
  ): Promise<void> =>
    withSession(context, command, (session) => {
      const { at, disk } = options;
      const request = { group, at: parseSelector(at, context.terminal.nowMs()), disk, root };
      const partition = partitionOf(options.partition);
      return browse(hostOf(session, command), { ...request, partition }, (browsed) => use(session, browsed));
    });

  browseOptions(files.command('mount').argument('<group>').description('mount it read-only until ^C'))
    .requiredOption('--to <directory>', 'an empty directory')
    .action(async (group: string, options: BrowseOptions & { to: string }, command: Command) => {
      const directory = resolve(options.to);
      await mkdir(directory, { recursive: true });
      if ((await readdir(directory)).length > 0)
        throw new TidemarkError('storage-exists', `${directory} is not empty`, { path: 'to' });
      await run(command, group, options, directory, mounted);
    });
  browseOptions(files.command('list').argument('<group>').argument('[path]', 'a directory or file', '/'))
    .description('list a directory')
    .action((group: string, path: string, options: BrowseOptions, command: Command) =>
      run(command, group, options, undefined, (session, { root }) => list(session, root, path)),
    );
  browseOptions(files.command('copy').argument('<group>').argument('<path>').argument('<destination>'))
    .description('copy a file or a directory with all in it; owners, modes, times and links are kept')
    .action((group: string, path: string, destination: string, options: BrowseOptions, command: Command) =>
      run(command, group, options, undefined, (session, { root }) => copy(session, root, path, resolve(destination))),
    );
  files
    .command('watch', { hidden: true })
    .argument('<directory>')
    .action((directory: string, _options, command: Command) =>
      withSession(context, command, async (session) => {
        for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
        for await (const _ of process.stdin);
        await giveBack(hostOf(session, command), directory);
      }),
    );
}

function browseOptions(command: Command): Command {
  return command
    .option('--at <checkpoint>', atHelp, 'latest')
    .option('--disk <name>', "which disk (default: the group's only one)")
    .option('--partition <number>', 'which partition, 0: the whole disk (default: the only one that can be mounted)');
}

function hostOf({ client, terminal }: Session, command: Command): BrowseHost {
  const address = resolveContext(command.optsWithGlobals<GlobalOptions>(), terminal.env);
  const { api, certificate, key, authority, serverName } = address;
  const env = {
    TIDEMARK_API: api,
    TIDEMARK_CERTIFICATE: resolve(certificate),
    TIDEMARK_KEY: resolve(key),
    TIDEMARK_AUTHORITY: resolve(authority),
    ...(serverName === undefined ? {} : { TIDEMARK_SERVER_NAME: serverName }),
  };
  return { client, api, env, state: join(terminal.env['XDG_RUNTIME_DIR'] ?? '/run', 'tidemark-files') };
}

function partitionOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,3}$/.test(text)) return Number(text);
  throw new TidemarkError('request-invalid', `--partition is a number, not ${JSON.stringify(text)}`, {
    path: 'partition',
  });
}

/** Until ^C. */
async function mounted(session: Session, { root, view, disk, volume }: Browsed): Promise<void> {
  const { signal } = session.terminal;
  session.print(
    { directory: root, checkpoint: view.checkpoint, disk, ...volume },
    () =>
      `${disk} at ${view.checkpoint} ${formatTime(view.sourceTimeMs)} (${volume.fileSystem}) on ${root}; ^C ends it\n`,
  );
  // A pending promise alone does not keep a process.
  const alive = setInterval(() => undefined, 60_000);
  await new Promise<void>((done) => {
    if (signal.aborted) done();
    else signal.addEventListener('abort', () => done(), { once: true });
  });
  clearInterval(alive);
}

async function list(session: Session, root: string, path: string): Promise<void> {
  const place = await guestPath(root, path);
  const isDirectory = (await lstat(place)).isDirectory();
  const names = isDirectory ? (await readdir(place)).sort() : [basename(place)];
  const entries = await Promise.all(names.map((name) => describeEntry(isDirectory ? join(place, name) : place)));
  session.print(entries, () =>
    formatTable(
      ['NAME', 'KIND', 'SIZE', 'MODE', 'MODIFIED'],
      entries.map(({ name, kind, sizeBytes, mode, modifiedMs, link }) => [
        oneLine(link === null ? name : `${name} -> ${link}`),
        kind,
        formatBytes(sizeBytes),
        mode,
        formatTime(modifiedMs),
      ]),
    ),
  );
}

async function describeEntry(path: string): Promise<{
  name: string;
  kind: 'directory' | 'file' | 'link' | 'other';
  sizeBytes: number;
  mode: string;
  modifiedMs: number;
  link: string | null;
}> {
  const found = await lstat(path);
  const kind = found.isDirectory() ? 'directory' : found.isFile() ? 'file' : found.isSymbolicLink() ? 'link' : 'other';
  const mode = (found.mode & 0o7777).toString(8).padStart(4, '0');
  const link = kind === 'link' ? await readlink(path) : null;
  return { name: basename(path), kind, sizeBytes: found.size, mode, modifiedMs: found.mtimeMs, link };
}

/** `cp -a` follows no link below the path. */
async function copy(session: Session, root: string, path: string, destination: string): Promise<void> {
  const place = await guestPath(root, path);
  await runTool('cp', ['--archive', '--', place, destination], copyMs);
  session.print({ path, destination }, () => `${path} copied to ${destination}\n`);
}
