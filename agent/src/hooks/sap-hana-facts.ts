/** What SAP HANA says of itself, and what of it breaks the promise. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { Finding, HookStep } from './hook.js';

/** Rows of answers: `tm-NAME|value|…`. */
export type Rows = readonly (readonly string[])[];

const startSql = `SELECT 'tm-database|' || DATABASE_NAME || '|' || TO_VARCHAR(START_TIME, 'YYYY-MM-DD"T"HH24:MI:SS') FROM SYS.M_DATABASE`;
const snapshotSql = `SELECT 'tm-snapshot|' || TO_VARCHAR(BACKUP_ID) || '|' || COMMENT FROM SYS.M_BACKUP_CATALOG WHERE ENTRY_TYPE_NAME = 'data snapshot' AND STATE_NAME = 'prepared'`;

export const stateSql = `${startSql} UNION ALL ${snapshotSql}`;
export const factsSql = [
  stateSql,
  `SELECT 'tm-hosts|' || TO_VARCHAR(COUNT(DISTINCT HOST)) FROM SYS.M_SERVICES`,
  `SELECT 'tm-inactive|' || DATABASE_NAME || ' ' || SERVICE_NAME || '|' || ACTIVE_STATUS FROM SYS_DATABASES.M_SERVICES WHERE ACTIVE_STATUS <> 'YES'`,
  `SELECT DISTINCT 'tm-path|' || USAGE_TYPE || '|' || PATH FROM SYS.M_DISKS WHERE USAGE_TYPE IN ('DATA', 'LOG')`,
].join(' UNION ALL ');

/** Of the snapshots that this hook makes. */
export const comment = 'tidemark';

const databaseSchema = z.tuple([z.string(), z.string()]);
const snapshotSchema = z.tuple([z.string().regex(/^\d+$/), z.string()]);
const hostsSchema = z.tuple([z.string().regex(/^\d+$/)]);
const pathSchema = z.tuple([z.enum(['DATA', 'LOG']), z.string().startsWith('/')]);

export interface State {
  readonly database: string;
  readonly startedAt: string;
  /** The one that is prepared; there is one at most. */
  readonly snapshot: { readonly id: string; readonly isOurs: boolean } | undefined;
}

/** Throws `hook-failed` where the answer is not what was asked for. */
export function stateOf(rows: Rows): State {
  const [database, startedAt] = all(rows, 'tm-database', databaseSchema, 1)[0]!;
  const [id, said] = all(rows, 'tm-snapshot', snapshotSchema)[0] ?? [];
  return { database, startedAt, snapshot: id === undefined ? undefined : { id, isOurs: said === comment } };
}

export async function findingsOf(step: Pick<HookStep, 'unprotected'>, rows: Rows): Promise<Finding[]> {
  const findings: Finding[] = [];
  const find = (code: string, reason: string): void => void findings.push({ code, reason });
  const { database, snapshot } = stateOf(rows);
  const hosts = Number(all(rows, 'tm-hosts', hostsSchema, 1)[0]![0]);
  const inactive = rows.filter(([name]) => name === 'tm-inactive').map(([, service]) => service);
  if (database !== 'SYSTEMDB') find('not-system-database', `the key leads to ${database}, not to SYSTEMDB`);
  if (hosts !== 1) find('several-hosts', `the system runs on ${hosts} hosts`);
  if (inactive.length > 0) find('service-inactive', `not active: ${inactive.join(', ')}`);
  if (snapshot?.isOurs === false)
    find('snapshot-by-others', `somebody else has prepared the data snapshot ${snapshot.id}; there is one at a time`);
  const paths = all(rows, 'tm-path', pathSchema);
  for (const usage of ['DATA', 'LOG'])
    if (!paths.some(([each]) => each === usage)) find('data-unprotected', `the ${usage} area cannot be seen`);
  return findings.length > 0 ? findings : step.unprotected([...new Set(paths.map(([, path]) => path))]);
}

function all<Schema extends z.ZodType>(rows: Rows, name: string, schema: Schema, count?: number): z.infer<Schema>[] {
  const found = rows.filter(([first]) => first === name);
  const parsed = z.array(schema).safeParse(found.map((row) => row.slice(1)));
  if (parsed.success && (count === undefined || parsed.data.length === count)) return parsed.data;
  throw new TidemarkError(
    'hook-failed',
    `SAP HANA answers ${found.length} rows for ${name}, or not what was asked for.`,
  );
}
