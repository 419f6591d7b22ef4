/**
 * postgresql: CHECKPOINT outside the hold, then one synchronous commit, proven by the flushed LSN. No pg_backup_start and no
 * pg_backup_stop: the label of such a backup would come after the mark, and write order makes it needless.
 */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { Finding, Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { postgresqlDocument } from './postgresql-document.js';
import type { HookSettingsOf } from './settings.js';

type Settings = HookSettingsOf<'postgresql'>;

const checkpointCountMax = 4;

const settingsSql = `SELECT json_build_object(
  'fsync', current_setting('fsync'),
  'fullPageWrites', current_setting('full_page_writes'),
  'standby', pg_is_in_recovery(),
  'earlyCommits', (SELECT coalesce(json_agg(DISTINCT place), '[]'::json) FROM (
    SELECT 'the server' AS place WHERE current_setting('synchronous_commit') = 'off'
    UNION ALL
    SELECT concat_ws(' in ', r.rolname, d.datname) FROM pg_db_role_setting s
      LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
      WHERE 'synchronous_commit=off' = ANY (s.setconfig)) AS places),
  'paths', (SELECT json_agg(path) FROM (
    SELECT current_setting('data_directory') AS path
    UNION ALL SELECT current_setting('data_directory') || '/pg_wal'
    UNION ALL SELECT pg_tablespace_location(oid) FROM pg_tablespace) AS places WHERE path <> ''))`;
const settingsSchema = z.object({
  fsync: z.string(),
  fullPageWrites: z.string(),
  standby: z.boolean(),
  earlyCommits: z.array(z.string()),
  paths: z.array(z.string()).min(1),
});

const redoSql = `SELECT json_build_object('redoBytes',
  pg_wal_lsn_diff(pg_current_wal_insert_lsn(), (SELECT redo_lsn FROM pg_control_checkpoint())))`;
const redoSchema = z.object({ redoBytes: z.number() });

const stateColumns = `'flushed', pg_current_wal_flush_lsn(), 'startedAt', pg_postmaster_start_time()`;
const lsn = z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/);
const stateSchema = z.object({ flushed: lsn, startedAt: z.string() });
const quietSchema = stateSchema.extend({ redoBytes: z.number() });

class PostgreSql implements Hook {
  #noted: string | undefined;
  #quiet: z.infer<typeof quietSchema> | undefined;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const [found] = await this.#ask(step, settingsSql, [settingsSchema] as const);
    const findings = [...findingsOf(found), ...(await step.unprotected(found.paths))];
    if (findings.length > 0) return { findings };
    for (let count = 0; count < checkpointCountMax; count++) {
      const [{ redoBytes }] = await this.#ask(step, `CHECKPOINT;\n${redoSql}`, [redoSchema] as const);
      if (redoBytes <= this.settings.redoBytesMax) break;
    }
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    const sql = `SET synchronous_commit = local;
SELECT to_json(pg_logical_emit_message(true, 'tidemark', 'hold'));
SELECT json_build_object(${stateColumns}, 'redoBytes',
  pg_wal_lsn_diff(pg_current_wal_insert_lsn(), (SELECT redo_lsn FROM pg_control_checkpoint())))`;
    const [noted, quiet] = await this.#ask(step, sql, [lsn, quietSchema] as const);
    if (numberOf(quiet.flushed) < numberOf(noted))
      throw new TidemarkError(
        'hook-failed',
        `PostgreSQL in ${step.vm} flushed up to ${quiet.flushed}, not to ${noted}.`,
      );
    this.#noted = noted;
    this.#quiet = quiet;
  }

  async release(): Promise<void> {
    // Nothing is held: the commit has ended.
  }

  async verify(step: HookStep): Promise<Verified> {
    const [noted, quiet] = [this.#noted, this.#quiet];
    if (noted === undefined || quiet === undefined) throw new TidemarkError('hook-failed', 'It was never quiesced.');
    const [now] = await this.#ask(step, `SELECT json_build_object(${stateColumns})`, [stateSchema] as const);
    if (now.startedAt !== quiet.startedAt || numberOf(now.flushed) < numberOf(quiet.flushed))
      return {
        findings: [
          { code: 'restarted', reason: `PostgreSQL was restarted at ${now.startedAt}, in the middle of the hold` },
        ],
        verifiedBy: [],
      };
    return {
      findings: [],
      verifiedBy: [`flushed LSN ${quiet.flushed} >= ${noted}`],
      facts: { flushedLsn: quiet.flushed, redoBytes: quiet.redoBytes },
    };
  }

  async undo(): Promise<string[]> {
    // Nothing of it stays: each statement is a session of its own, which ends by itself.
    return [];
  }

  async afterRecovery(): Promise<void> {
    // It replays its log by itself.
  }

  /** Runs the statements in one session; each line of the answer is JSON and fits its schema. */
  async #ask<const Schemas extends readonly z.ZodType[]>(
    step: HookStep,
    sql: string,
    schemas: Schemas,
  ): Promise<{ [Place in keyof Schemas]: z.infer<Schemas[Place]> }> {
    const { host, port, user, database, osUser, psql } = this.settings;
    const program = [
      psql,
      '--no-psqlrc',
      '--quiet',
      '--no-align',
      '--tuples-only',
      '--no-password',
      '-v',
      'ON_ERROR_STOP=1',
    ];
    const words = osUser === '' ? program : ['runuser', '-u', osUser, '--', ...program];
    const timeoutMs = step.leftMs();
    const { exitCode, stdout, stderr } = await step.guest.run(['/bin/sh', '-c', 'cd / && exec "$@"', 'sh', ...words], {
      input: `${sql};\n`,
      environment: {
        ...{ PGHOST: host, PGPORT: String(port), PGUSER: user, PGDATABASE: database, PGAPPNAME: 'tidemark' },
        // What waits longer than the step is cancelled by the server itself.
        PGOPTIONS: `-c statement_timeout=${Math.ceil(timeoutMs)} -c lock_timeout=${Math.ceil(timeoutMs)}`,
        PGCONNECT_TIMEOUT: '10',
      },
      timeoutMs,
    });
    const lines = stdout.split('\n').filter((line) => line !== '');
    if (exitCode !== 0 || lines.length !== schemas.length)
      throw new TidemarkError('hook-failed', `PostgreSQL in ${step.vm} says: ${stderr.trim().slice(-500) || exitCode}`);
    return schemas.map((schema, index) => {
      const parsed = schema.safeParse(jsonOf(lines[index] ?? ''));
      if (parsed.success) return parsed.data;
      throw new TidemarkError('hook-failed', `PostgreSQL in ${step.vm} answers ${lines[index]?.slice(0, 200)}`);
    }) as { [Place in keyof Schemas]: z.infer<Schemas[Place]> };
  }
}

function findingsOf({ fsync, fullPageWrites, standby, earlyCommits }: z.infer<typeof settingsSchema>): Finding[] {
  const findings: Finding[] = [];
  if (fsync !== 'on') findings.push({ code: 'fsync-off', reason: `fsync is ${fsync}; set it on` });
  if (fullPageWrites !== 'on')
    findings.push({ code: 'full-page-writes-off', reason: `full_page_writes is ${fullPageWrites}; set it on` });
  if (earlyCommits.length > 0)
    findings.push({
      code: 'synchronous-commit-off',
      reason: `synchronous_commit is off for ${earlyCommits.join(', ')}: acknowledged commits may be lost`,
    });
  if (standby) findings.push({ code: 'standby', reason: 'the server is a standby; hook its primary' });
  return findings;
}

/** Of an LSN, so that two can be compared. */
function numberOf(text: string): bigint {
  const [high = '0', low = '0'] = text.split('/');
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const postgresql: HookModule<'postgresql'> = {
  kind: 'postgresql',
  document: postgresqlDocument,
  create: (settings) => new PostgreSql(settings),
};
