/** What Oracle says of itself, and what of it breaks the promise. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { Finding, HookStep } from './hook.js';
import type { HookSettingsOf } from './settings.js';

/** Rows of answers: `tm-NAME|value|…`. */
export type Rows = readonly (readonly string[])[];

export const stateSql = `SELECT 'tm-instance|' || TO_CHAR(startup_time, 'YYYY-MM-DD"T"HH24:MI:SS') || '|' || status || '|' || parallel FROM v$instance;
SELECT 'tm-backup|' || COUNT(*) || '|' || NVL(MAX(change#), 0) FROM v$backup WHERE status = 'ACTIVE';`;

export const databaseSql = `SELECT 'tm-database|' || log_mode || '|' || open_mode || '|' || database_role || '|' || current_scn || '|' || checkpoint_change# FROM v$database;`;

export const factsSql = `${stateSql}
${databaseSql}
SELECT 'tm-nowait|' || name || ' = ' || value FROM v$parameter WHERE name IN ('commit_wait', 'commit_write') AND UPPER(value) LIKE '%NOWAIT%';
SELECT 'tm-file|' || name FROM v$datafile;
SELECT 'tm-file|' || member FROM v$logfile;
SELECT 'tm-file|' || name FROM v$controlfile;
SELECT 'tm-file|' || value FROM v$parameter WHERE name = 'spfile' AND value IS NOT NULL;
SELECT 'tm-file|' || destination FROM v$archive_dest WHERE status = 'VALID' AND target IN ('PRIMARY', 'LOCAL') AND destination <> 'USE_DB_RECOVERY_FILE_DEST';
SELECT 'tm-file|' || name FROM v$recovery_file_dest WHERE name IS NOT NULL;
SELECT 'tm-disk|' || g.name || '|' || d.path FROM v$asm_disk d JOIN v$asm_diskgroup g ON g.group_number = d.group_number WHERE d.group_number > 0;`;

const count = z.string().regex(/^\d+$/);
const instanceSchema = z.tuple([z.string(), z.string(), z.string()]);
const backupSchema = z.tuple([count, count]);
const databaseSchema = z.tuple([z.string(), z.string(), z.string(), count, count]);

export interface State {
  readonly startedAt: string;
  /** OPEN, MOUNTED, STARTED … */
  readonly status: string;
  readonly isCluster: boolean;
  /** Data files in backup mode. */
  readonly activeCount: number;
  /** SCN when the last of them was put in it. */
  readonly backupScn: string;
}

export interface DatabaseFacts {
  readonly logMode: string;
  readonly openMode: string;
  readonly role: string;
  readonly scn: bigint;
  readonly checkpointScn: bigint;
}

/** Throws `hook-failed` where the answer is not what was asked for. */
export function stateOf(rows: Rows): State {
  const [startedAt, status, parallel] = only(rows, 'tm-instance', instanceSchema);
  const [active, backupScn] = only(rows, 'tm-backup', backupSchema);
  return { startedAt, status, isCluster: parallel === 'YES', activeCount: Number(active), backupScn };
}

export function databaseOf(rows: Rows): DatabaseFacts {
  const [logMode, openMode, role, scn, checkpointScn] = only(rows, 'tm-database', databaseSchema);
  return { logMode, openMode, role, scn: BigInt(scn), checkpointScn: BigInt(checkpointScn) };
}

export async function findingsOf(
  step: Pick<HookStep, 'unprotected'>,
  rows: Rows,
  { mode }: HookSettingsOf<'oracle'>,
): Promise<Finding[]> {
  const [{ isCluster, activeCount }, { logMode, openMode, role }] = [stateOf(rows), databaseOf(rows)];
  const findings: Finding[] = [];
  const find = (code: string, reason: string): void => void findings.push({ code, reason });
  if (isCluster) find('cluster', 'the database is a Real Application Cluster: its files are not of one VM');
  if (role !== 'PRIMARY') find('standby', `the database is ${role}; hook its primary`);
  else if (openMode !== 'READ WRITE') find('not-open', `the database is ${openMode}`);
  if (mode === 'hot-backup' && logMode !== 'ARCHIVELOG')
    find('noarchivelog', `the database is in ${logMode} mode, in which there is no backup mode`);
  if (activeCount > 0)
    find('in-backup-mode', `${activeCount} data files are in backup mode by somebody else; ALTER DATABASE END BACKUP`);
  for (const [, setting] of of(rows, 'tm-nowait'))
    find('commit-nowait', `${setting}: commits are acknowledged before they are on the disk`);
  if (findings.length > 0) return findings;
  const names = of(rows, 'tm-file').map(([, name = '']) => name);
  const groups = new Set(names.flatMap((name) => /^\+([^/.]+)/.exec(name)?.[1]?.toUpperCase() ?? []));
  const disks = of(rows, 'tm-disk').filter(([, group = '']) => groups.has(group.toUpperCase()));
  for (const group of groups)
    if (!disks.some(([, each = '']) => each.toUpperCase() === group))
      find('data-unprotected', `the disks of the ASM disk group ${group} cannot be seen`);
  const paths = [...names.filter((name) => !name.startsWith('+')), ...disks.map(([, , path = '']) => deviceOf(path))];
  return [...findings, ...(await step.unprotected([...new Set(paths)]))];
}

/** Disks of ASMLib and of the ASM filter driver have names of their own. */
function deviceOf(path: string): string {
  return path.replace(/^ORCL:/, '/dev/oracleasm/disks/').replace(/^AFD:/, '/dev/oracleafd/disks/');
}

function of(rows: Rows, name: string): Rows {
  return rows.filter(([first]) => first === name);
}

function only<Schema extends z.ZodType>(rows: Rows, name: string, schema: Schema): z.infer<Schema> {
  const found = of(rows, name);
  const parsed = schema.safeParse(found.length === 1 ? found[0]!.slice(1) : undefined);
  if (parsed.success) return parsed.data;
  throw new TidemarkError('hook-failed', `Oracle answers ${found.length} rows for ${name}, or not what was asked for.`);
}
