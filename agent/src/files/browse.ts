/**
 * Browsing a checkpoint from the command line: a view is opened and mounted, used, and given back. What gives it back is
 * a watcher, a second process that waits for the end of its standard input: it is there also when this one is killed.
 * Should both be killed, the next use of `files` on this host clears away what they left.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentClient } from '../client/agent-client.js';
import { TidemarkError } from '../core/errors.js';
import { ownCommand } from '../core/own-command.js';
import type { CheckpointSelector } from '../service/checkpoint-schemas.js';
import type { ViewStatus } from '../service/view-schemas.js';
import { mountDisk } from './mount-disk.js';
import type { Volume } from './volumes.js';
import {
  abandoned,
  ignoreUnknownView,
  makeWorkplace,
  openWorkplace,
  startOf,
  tearDown,
  type WorkRecord,
} from './workplace.js';

export interface BrowseRequest {
  readonly group: string;
  readonly at: CheckpointSelector;
  /** Undefined: the group's only one. */
  readonly disk: string | undefined;
  readonly partition: number | undefined;
  /** Where to mount; undefined: a private directory. Must be an empty directory. */
  readonly root: string | undefined;
}

export interface Browsed {
  readonly root: string;
  readonly view: ViewStatus;
  readonly disk: string;
  readonly volume: Volume;
}

export interface BrowseHost {
  readonly client: AgentClient;
  /** URL of the client's agent: only its own views are closed by it. */
  readonly api: string;
  /** Of this host's workplaces. */
  readonly state: string;
  /** Of the watcher: how it reaches the agent. */
  readonly env: Readonly<Record<string, string>>;
}

/** Mounts, calls `use`, and gives everything back, whatever happens. */
export async function browse(
  host: BrowseHost,
  request: BrowseRequest,
  use: (browsed: Browsed) => Promise<void>,
): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new TidemarkError('forbidden', 'Mounting needs root; `tidemark export` does not.', { path: 'root' });
  await sweep(host);
  const id = `files-${randomBytes(4).toString('hex')}`;
  const directory = join(host.state, id);
  const watcher = startWatcher(directory, host.env);
  try {
    const ownerPid = watcher.pid ?? 0;
    const record = { version: 1, group: request.group, view: id, api: host.api } as const;
    const workplace = await makeWorkplace(host.state, id, {
      ...record,
      ...(request.root === undefined ? {} : { root: request.root }),
      ownerPid,
      ownerStart: (await startOf(ownerPid)) ?? '',
    });
    const view = await host.client.openView(request.group, { id, at: request.at, purpose: 'browse' });
    const { name, uri, sizeBytes } = await chooseDisk(view, request.disk);
    const volume = await mountDisk(workplace, { uri, sizeBytes, partition: request.partition });
    await use({ root: workplace.record.root, view, disk: name, volume });
  } finally {
    if (!(await endWatcher(watcher))) await giveBack(host, directory);
  }
}

/** The watcher's life: called when its input has ended. Nothing to give back is no error. */
export async function giveBack(host: Pick<BrowseHost, 'client'>, directory: string): Promise<void> {
  const workplace = await openWorkplace(directory);
  if (workplace !== undefined) await tearDown(workplace, (record) => closeView(host, record));
}

/** Gives back what killed commands left, as far as it belongs to this agent. */
async function sweep(host: BrowseHost): Promise<void> {
  for (const workplace of await abandoned(host.state))
    if (workplace.record.api === host.api) await tearDown(workplace, (record) => closeView(host, record));
}

async function closeView({ client }: Pick<BrowseHost, 'client'>, { group, view }: WorkRecord): Promise<void> {
  await client.closeView(group, view, { force: true }).catch(ignoreUnknownView);
}

async function chooseDisk(view: ViewStatus, disk: string | undefined): Promise<ViewStatus['disks'][number]> {
  const fit = view.disks.filter(({ name }) => disk === undefined || name === disk);
  const [chosen] = fit;
  if (chosen === undefined || fit.length > 1)
    throw new TidemarkError('disk-unknown', `name the disk: ${view.disks.map(({ name }) => name).join(', ')}`, {
      path: 'disk',
    });
  const socket = new URL(chosen.uri).searchParams.get('socket');
  if (socket !== null && (await stat(socket).catch(() => undefined)) === undefined)
    throw new TidemarkError('request-invalid', `${socket} is not on this machine; run this on the agent's host.`, {
      path: 'api',
    });
  return chosen;
}

function startWatcher(directory: string, env: Readonly<Record<string, string>>): ChildProcess {
  const { file, args, env: own } = ownCommand('files', 'watch', directory);
  const child = spawn(file, args, {
    // A session of its own: ^C is for the command.
    ...{ stdio: ['pipe', 'ignore', 'inherit'], detached: true, env: { ...own, ...env } },
  });
  child.on('error', () => undefined);
  child.stdin?.on('error', () => undefined);
  return child;
}

/** True when it has given everything back. */
function endWatcher(watcher: ChildProcess): Promise<boolean> {
  return new Promise((resolve) => {
    if (watcher.pid === undefined || watcher.exitCode !== null || watcher.signalCode !== null) {
      resolve(false);
      return;
    }
    watcher.once('exit', (code) => resolve(code === 0));
    watcher.stdin?.end();
  });
}
