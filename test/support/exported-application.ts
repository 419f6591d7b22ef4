/** The application as a checkpoint has it, without a boot: its disks exported, PostgreSQL of the guest's own root disk on them. */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { guestDisk } from './guest-image.js';
import { repositoryRoot } from './paths.js';
import type { Processes } from './processes.js';
import { compareNumbers, parseNumbers, type Application } from './two-tier.js';
import type { TwoTierSites } from './two-tier-sites.js';

/** Database and client may be of different checkpoints: that is what a broken order looks like. */
export interface CheckedCheckpoints {
  readonly db: string;
  readonly client?: string;
  /** Of another group than usual. */
  readonly of?: string;
}

const dbDisks = ['db-vdb', 'db-vdc'];
const clientDisk = 'client-vdb';

/** PostgreSQL recovers on the exported disks, pg_amcheck passes; acknowledged and committed numbers are compared. */
export async function checkExported(
  sites: TwoTierSites,
  id: string,
  checkpoints: CheckedCheckpoints,
): Promise<Application> {
  const { acknowledged, present } = await lookInto(sites, id, checkpoints);
  return compareNumbers(acknowledged, present);
}

/** What a checkpoint holds. */
export interface Inside {
  /** In the file of the client's disk. */
  readonly acknowledged: readonly number[];
  /** In the database. */
  readonly present: readonly number[];
  /** File systems, of three, that had a journal to replay. */
  readonly journalsReplayed: number;
  /** Of PostgreSQL's own recovery. */
  readonly redoBytes: number;
}

/** PostgreSQL recovers on the exported disks, pg_amcheck passes. */
export async function lookInto(
  sites: TwoTierSites,
  id: string,
  { db, client = db, of }: CheckedCheckpoints,
): Promise<Inside> {
  const { lab, image } = sites;
  const directory = mkdtempSync(lab.path('export-'));
  try {
    const place = join(directory, 'place');
    mkdirSync(place);
    const exportOf = (name: string, checkpoint: string, disks: readonly string[]): Promise<unknown> => {
      mkdirSync(join(directory, name));
      const at = { by: 'id', checkpoint };
      const args = { at, format: 'raw', directory: join(directory, name), disks };
      return sites.run(`${id}-${name}`, 'export', args, of === undefined ? {} : { of });
    };
    await exportOf('db', db, client === db ? [...dbDisks, clientDisk] : dbDisks);
    if (client !== db) await exportOf('client', client, [clientDisk]);
    const text = await lab.processes.run('unshare', [
      ...['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'bash'],
      join(repositoryRoot(), 'test', 'support', 'check-export.sh'),
      place,
      guestDisk(image, 'root'),
      ...dbDisks.map((disk) => join(directory, 'db', `${disk}.raw`)),
      join(directory, client === db ? 'db' : 'client', `${clientDisk}.raw`),
    ]);
    const [acknowledged = '', present = '', facts = ''] = text.split(/^--$/m);
    const [journals, from = '-', to = '-'] = facts.trim().split(' ');
    return {
      acknowledged: parseNumbers(acknowledged),
      present: parseNumbers(present),
      journalsReplayed: Number(journals),
      redoBytes: from === '-' || to === '-' ? 0 : lsnBytes(to) - lsnBytes(from),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function lsnBytes(text: string): number {
  const [high = '0', low = '0'] = text.split('/');
  return parseInt(high, 16) * 2 ** 32 + parseInt(low, 16);
}

/** What the client's disk (a raw file that no VM writes) has as acknowledged, as after a loss of power. */
export async function acknowledgedOnDisk(processes: Processes, disk: string): Promise<number[]> {
  const copy = `${disk}.look`;
  try {
    copyFileSync(disk, copy);
    await processes.run('e2fsck', ['-y', '-E', 'journal_only', copy]);
    return parseNumbers(await processes.run('debugfs', ['-R', 'cat /acknowledged', copy]));
  } finally {
    rmSync(copy, { force: true });
  }
}
