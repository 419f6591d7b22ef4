/**
 * What a browsed checkpoint holds on this host, and how it is given back.
 *
 * A workplace is a directory `STATE/ID` with `record.json` (written before anything is held), `disk/nbd` (the view's disk
 * as a file, by nbdfuse) and, for list and copy, `root` (where the file system is mounted). Everything held is found
 * again from these names alone, so tear-down can be repeated, by anybody, after a kill at any point: mount → loop
 * device → nbdfuse → view → directory.
 */
import { mkdir, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import { runTool } from './tool.js';
import { detachLoops } from './volumes.js';

const recordSchema = z.object({
  version: z.literal(1),
  group: z.string(),
  view: z.string(),
  /** Agent of the view. */
  api: z.string(),
  /** Where the file system is mounted. */
  root: z.string(),
  /** Who tears it down; its start tells it from a later process of the same number. */
  ownerPid: z.number().int(),
  ownerStart: z.string(),
});
export type WorkRecord = z.infer<typeof recordSchema>;

export interface Workplace {
  readonly directory: string;
  readonly record: WorkRecord;
}

export const imageOf = ({ directory }: Workplace): string => join(directory, 'disk', 'nbd');

export async function makeWorkplace(
  state: string,
  id: string,
  record: Omit<WorkRecord, 'root'> & { root?: string },
): Promise<Workplace> {
  await mkdir(state, { recursive: true, mode: 0o700 });
  const directory = join(state, id);
  await mkdir(directory, { mode: 0o700 });
  const root = record.root ?? join(directory, 'root');
  const whole: WorkRecord = { ...record, root };
  await writeFile(join(directory, 'record.json'), JSON.stringify(whole));
  await mkdir(join(directory, 'disk'));
  if (record.root === undefined) await mkdir(root);
  return { directory, record: whole };
}

/** Undefined: nothing was held yet when it was killed; only the directory is left. */
export async function openWorkplace(directory: string): Promise<Workplace | undefined> {
  try {
    return {
      directory,
      record: recordSchema.parse(JSON.parse(await readFile(join(directory, 'record.json'), 'utf8'))),
    };
  } catch {
    return undefined;
  }
}

/** Idempotent. `closeView` must take an unknown view for closed. */
export async function tearDown(workplace: Workplace, closeView: (record: WorkRecord) => Promise<void>): Promise<void> {
  const { directory, record } = workplace;
  const image = imageOf(workplace);
  const loops = (await mounts()).filter(({ place }) => place === record.root);
  for (const _ of loops) await runTool('umount', ['--lazy', record.root]);
  await detachLoops(image);
  const disk = join(directory, 'disk');
  for (const _ of (await mounts()).filter(({ place }) => place === disk)) await runTool('umount', ['--lazy', disk]);
  await closeView(record);
  // Never into a mount that could not be undone.
  await rmdir(disk).catch(ignoreMissing);
  if (record.root.startsWith(`${directory}/`)) await rmdir(record.root).catch(ignoreMissing);
  for (const name of ['nbdfuse.log', 'record.json']) await rm(join(directory, name), { force: true });
  await rmdir(directory).catch(ignoreMissing);
}

/** Workplaces whose owner is dead. */
export async function abandoned(state: string): Promise<Workplace[]> {
  const names = await readdir(state).catch(() => []);
  const found: Workplace[] = [];
  for (const name of names) {
    const workplace = await openWorkplace(join(state, name));
    if (workplace === undefined) continue;
    const { ownerPid, ownerStart } = workplace.record;
    if ((await startOf(ownerPid)) !== ownerStart) found.push(workplace);
  }
  return found;
}

/** Clock ticks from boot to the start of a process; undefined: there is none. */
export async function startOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The name in brackets may hold anything.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields?.[0] === 'Z' ? undefined : fields?.[19];
}

async function mounts(): Promise<{ place: string }[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).trimEnd().split('\n');
  const unescape = (text: string): string =>
    text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
  return lines.map((line) => ({ place: unescape(line.split(' ')[4] ?? '') }));
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}

/** For `closeView`: a view that is not there is closed. */
export function ignoreUnknownView(error: unknown): void {
  if (!isTidemarkError(error, 'view-unknown')) throw error;
}
